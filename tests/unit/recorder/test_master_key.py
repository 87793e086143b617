"""The key that wraps keys: from where it comes, and what it refuses."""

import base64
import sys
import types

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from sfu.recorder.master_key import LocalMasterKey, master_key, parsed
from sfu.settings import Recorder

ONE, TWO = bytes(range(32)), bytes(range(1, 33))


async def test_what_is_wrapped_is_unwrapped_and_is_rfc_3394():
    wrapped = await LocalMasterKey([ONE]).wrap(TWO, "rec_1")
    assert aes_key_unwrap(ONE, base64.b64decode(wrapped["key"])) == TWO
    assert await LocalMasterKey([ONE]).unwrap(wrapped, "rec_1") == TWO


async def test_a_new_first_key_wraps_and_the_old_one_still_unwraps():
    wrapped = await LocalMasterKey([ONE]).wrap(TWO, "rec_1")
    both = LocalMasterKey([TWO, ONE])
    assert await both.unwrap(wrapped, "rec_1") == TWO
    assert (await both.wrap(ONE, "rec_2"))["by"] != wrapped["by"]
    with pytest.raises(ValueError, match="not here"):
        await LocalMasterKey([TWO]).unwrap(wrapped, "rec_1")


async def test_a_wrapped_key_that_was_changed_is_refused():
    wrapped = dict(await LocalMasterKey([ONE]).wrap(TWO, "rec_1"))
    wrapped["key"] = base64.b64encode(bytes(40)).decode()
    with pytest.raises(ValueError, match="changed"):
        await LocalMasterKey([ONE]).unwrap(wrapped, "rec_1")


def test_keys_are_hexadecimal_or_base64_a_line():
    text = f"# the newest\n{ONE.hex()}\n\n{base64.b64encode(TWO).decode()}  # the one before\n"
    assert parsed(text) == [ONE, TWO]


@pytest.mark.parametrize("line", ["00" * 31, "zz" * 32, "hunter2", base64.b64encode(b"short").decode()])
def test_what_is_no_key_is_told_without_being_repeated(line):
    with pytest.raises(ValueError, match="line 1 is no key") as told:
        parsed(line)
    assert line not in str(told.value)


def test_it_comes_from_a_file_or_the_environment(tmp_path):
    assert master_key(Recorder()) is None
    file = tmp_path / "master.key"
    file.write_text(ONE.hex() + "\n")
    for settings in (Recorder(master_key_file=str(file)), Recorder(master_key=ONE.hex())):
        assert isinstance(master_key(settings), LocalMasterKey)
    with pytest.raises(ValueError, match=r"recorder\.master_key: line 1"):
        master_key(Recorder(master_key="secret"))


def test_a_key_service_is_what_the_host_application_names(monkeypatch):
    class Service:
        async def wrap(self, key, recording_id):
            return {}

        async def unwrap(self, wrapped, recording_id):
            return b""

    module = types.ModuleType("hosts_keys")
    module.service, module.nothing = Service, object
    monkeypatch.setitem(sys.modules, "hosts_keys", module)
    assert isinstance(master_key(Recorder(key_service="hosts_keys:service")), Service)
    for name in ("hosts_keys:absent", "absent_module:x", "hosts_keys", "hosts_keys:nothing"):
        with pytest.raises(ValueError, match=r"recorder\.key_service"):
            master_key(Recorder(key_service=name))


def test_it_is_not_shown():
    assert ONE.hex() not in repr(Recorder(master_key=ONE.hex()))
