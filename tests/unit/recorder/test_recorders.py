"""Two recorders as one: what is told of both of them, and when."""

from pathlib import Path

import pytest

from sfu import clock
from sfu.recorder.recorders import Recorders


class Process:
    """A recorder that notes what it is told."""

    def __init__(self):
        self.is_ready, self.told, self.packets, self.dropped, self.pid = True, [], [], {}, 1
        self.kills = 0

    def kill(self):
        self.kills += 1

    def send(self, message):
        self.told.append(message["type"])

    def send_media(self, recording, source, at_us, packet):
        self.packets.append(packet)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def two(heard):
    recorders = Recorders([Path("/a"), Path("/b")], Path("/key"), heard.append, lambda: heard.append("lost"))
    recorders.clients = [Process(), Process()]
    return recorders


def opened(two, recorders=2):
    two.send({"type": "open", "rec": 1, "recorders": recorders})
    return [client.told for client in two.clients]


def types(heard):
    return [message if isinstance(message, str) else message["type"] for message in heard]


def test_both_write_what_is_to_be_written_twice(two):
    assert opened(two) == [["open"], ["open"]]
    two.send_media(1, 7, 0, b"p")
    two.send({"type": "pause", "rec": 1})
    assert [client.packets for client in two.clients] == [[b"p"], [b"p"]]
    assert [client.told for client in two.clients] == [["open", "pause"]] * 2


def test_one_writes_what_is_written_once_the_first_who_is_there(two):
    assert opened(two, 1) == [["open"], []]
    two.clients[0].is_ready = False
    two.send({"type": "open", "rec": 2, "recorders": 1})
    assert two.clients[1].told == ["open"]
    two.send_media(2, 7, 0, b"q")
    assert [client.packets for client in two.clients] == [[], [b"q"]]


def test_it_is_sealed_when_both_have_sealed_with_the_first_ones_manifest(two, heard):
    opened(two)
    two._heard(1, {"type": "sealed", "rec": 1, "manifest": {"of": 1}})
    assert heard == []
    two._heard(0, {"type": "sealed", "rec": 1, "manifest": {"of": 0}})
    assert heard == [{"type": "sealed", "rec": 1, "manifest": {"of": 0}, "place": 0}]


@pytest.mark.parametrize("place", [0, 1])
def test_one_that_fails_does_not_fail_the_recording(two, heard, place):
    opened(two)
    two._heard(place, {"type": "failed", "rec": 1, "code": "ENOSPC"})
    assert (types(heard), heard[0]["place"]) == (["one_failed"], place)
    two.send_media(1, 7, 0, b"p")
    assert two.clients[place].packets == []
    two._heard(1 - place, {"type": "sealed", "rec": 1, "manifest": {}})
    assert (heard[-1]["type"], heard[-1]["place"]) == ("sealed", 1 - place)


def test_one_that_fails_at_the_end_leaves_what_the_other_sealed(two, heard):
    opened(two)
    two._heard(1, {"type": "sealed", "rec": 1, "manifest": {"of": 1}})
    two._heard(0, {"type": "failed", "rec": 1, "code": "EIO"})
    assert heard == [{"type": "sealed", "rec": 1, "manifest": {"of": 1}, "place": 1}]


def test_it_has_failed_when_both_have(two, heard):
    opened(two)
    for place in (1, 0):
        two._heard(place, {"type": "failed", "rec": 1, "code": "ENOSPC"})
    assert types(heard) == ["one_failed", "failed"]


def test_a_process_that_is_gone_fails_what_it_wrote_and_no_more(two, heard):
    opened(two)
    two.send({"type": "open", "rec": 2, "recorders": 1})
    two._gone(0)
    assert types(heard) == ["one_failed", "failed", "lost"]
    assert heard[1]["rec"] == 2
    two._gone(1)
    assert types(heard)[3:] == ["failed", "lost"]


def test_what_comes_late_of_one_who_failed_is_passed_over(two, heard):
    opened(two)
    two._heard(0, {"type": "failed", "rec": 1, "code": "EIO"})
    del heard[:]
    two._heard(0, {"type": "written", "rec": 1, "bytes": 5})
    two._heard(0, {"type": "failed", "rec": 1, "code": "EIO"})
    assert heard == []
    two._heard(1, {"type": "written", "rec": 1, "bytes": 5})
    assert heard == [{"type": "written", "rec": 1, "bytes": 5, "place": 1}]
    two.forget(1)
    two._heard(1, {"type": "written", "rec": 1, "bytes": 6})
    assert len(heard) == 1


def test_uploads_are_of_the_place_where_it_lies(two):
    two.send({"type": "archive", "id": "rec_1", "place": 1})
    two.send({"type": "remove", "id": "rec_1", "place": 0})
    assert [client.told for client in two.clients] == [["remove"], ["archive"]]
    assert [two.is_ready_at(place) for place in (0, 1, 2)] == [True, True, False]


def test_one_of_two_who_hangs_is_ended_but_one_alone_is_not(two, monkeypatch):
    """The other does not wait for it; one alone may only have a slow disk."""
    moment = [100.0]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    opened(two)
    for second in range(101, 133):
        moment[0] = float(second)
        two._heard(0, {"type": "written", "rec": 1, "bytes": second})
        two.tick(moment[0])
    assert [client.kills for client in two.clients] == [0, 1]
    two._gone(1)
    moment[0] = 300.0
    two.clients = two.clients[:1]
    two.tick(moment[0])
    assert two.clients[0].kills == 0
