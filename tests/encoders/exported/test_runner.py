"""What runs ONNX files: it sends nothing to its maker, and its threads do not survive a fork."""

import os
import subprocess
import sys

import numpy as np
import pytest

from smart_rag import SmartEncoder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def run(program, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    ran = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.fixture(scope="module", autouse=True)
def exported():
    """The export of the bundled model, which this module's processes use."""
    return SmartEncoder("minilm", device="cpu", backend="onnx")


ENCODE = """
import os
from smart_rag import SmartEncoder
SmartEncoder("minilm", device="cpu", backend="onnx").encode_query(["a"])
"""


@pytest.mark.parametrize(("given", "found"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_nothing_is_sent_unless_the_user_wants_it(given, found):
    assert run(ENCODE + "print(os.environ['ORT_DISABLE_TELEMETRY'])", **given) == [found]


@pytest.mark.parametrize("is_used", [False, True])
def test_a_forked_process_ends(is_used):
    """Its parent's threads do not exist there, so nothing may wait for them, also if the encoder is never used."""
    program = f"""{ENCODE}
import signal, sys
encoder = SmartEncoder("minilm", device="cpu", backend="onnx")
wanted = encoder.encode_query(["a"]).pooled.sum()
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(30)
if {is_used}:
    assert encoder.encode_query(["a"]).pooled.sum() == wanted
del encoder
sys.exit()
"""
    run(program, OMP_NUM_THREADS="2")


def test_the_parent_goes_on(exported):
    wanted = exported.encode_query(["a b"])
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(exported.encode_query(["a b"]).pooled, wanted.pooled)
