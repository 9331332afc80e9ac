"""What a store holds, to be compared with another one."""


def contents(store, cells):
    """Everything a store says of its cells: the JSON files' bytes and the arrays' bits."""
    found = {}
    for cell in cells:
        arrays = store.arrays(cell)
        found[cell.key] = (
            (store.folder / f"{cell.key}.json").read_bytes(),
            {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()},
        )
    return found
