"""What a run says of itself: its cost before there is an estimate, then the time left."""

import json

from sandbox.lab.progress import Progress


def test_the_cost_is_said_first_and_the_time_left_once_it_can_be_known(tmp_path, capsys):
    status = tmp_path / "status.json"
    with Progress(7.2e6, 3, status) as progress:
        assert progress.seconds_left() is None
        assert json.loads(status.read_text())["seconds_left"] is None
        progress.advance(0.005 * 7.2e6)
        assert progress.seconds_left() is None
        progress.advance(0.245 * 7.2e6)
        left = progress.seconds_left()
        assert left is not None
        assert left >= 0
        progress.count(finished=3)
    first, last = (lines := capsys.readouterr().err.splitlines())[0], lines[-1]
    assert first == "  0%  0 of 3 students, 0 s, 2 core hours expected"
    assert last.startswith(" 25%  3 of 3 students, 0 s, about ")


def test_nothing_left_to_do_costs_nothing(tmp_path, capsys):
    with Progress(0, 3, tmp_path / "status.json") as progress:
        progress.count(finished=3)
    assert "core hours" not in capsys.readouterr().err
