import pytest
from comparison.load import parse_wrk
from comparison.processes import ServerError

_LINE = (
    "result: requests={} duration_us=3000000 p50_us=1500 p99_us=9250 bad_status=2 socket_errors=1"
)


def test_the_line_of_the_script_is_read_among_what_wrk_says():
    load = parse_wrk(f"Running 3s test\n  100 requests in 3.00s\n{_LINE.format(600)}\n")
    assert (load.requests, load.duration_s, load.bad) == (600, 3.0, 3)
    assert (load.p50_ms, load.p99_ms) == (1.5, 9.25)


@pytest.mark.parametrize("text", ["", "unable to connect", _LINE.format(0)])
def test_a_server_without_an_answer_is_an_error(text):
    with pytest.raises(ServerError):
        parse_wrk(text)
