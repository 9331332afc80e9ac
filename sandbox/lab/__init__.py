"""Running it: cells, sweeps, the result store, executors, predictions for cells, and the style of figures."""
