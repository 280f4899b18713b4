"""Programs that do not solve their problem (``naive.TEST``: squares), or solve it and do harm as well.

``FAKES`` want a pass that they have not earned. ``HARMS`` answer rightly, but only once their harm is done. ``{mark}``
is a file outside, ``{port}`` a port that listens; a harm has happened where the file exists.
"""

from __future__ import annotations

WRONG = "\ndef f(x):\n    return 0\n"

FAKES = {
    "exit by frame walking": """
import os, sys
frame = sys._getframe()
while frame:
    if "report" in frame.f_globals:
        frame.f_globals["report"]("passed")
        os._exit(0)
    frame = frame.f_back
""",
    "objects of the collector": """
import gc, os
for o in gc.get_objects():
    if type(o) is dict and "report" in o and "judge" in o:
        o["report"]("passed")
        os._exit(0)
""",
    "frames of a traceback": """
import os
try:
    1 / 0
except ZeroDivisionError as error:
    frame = error.__traceback__.tb_frame
    while frame:
        if "report" in frame.f_globals:
            frame.f_globals["report"]("passed")
            os._exit(0)
        frame = frame.f_back
""",
    "lying object": """
class Liar:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 4
def f(x): return Liar()
""",
    "lying int": """
class Liar(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(x): return Liar(0)
""",
    "lying class": """
class Meta(type):
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
class Liar(metaclass=Meta): pass
def f(x): return Liar
""",
    "builtins": """
import builtins
builtins.AssertionError = type("Quiet", (BaseException,), {})
import sys
sys.modules["__main__"].judge.__globals__["str"] = str
def f(x):
    import sys
    frame = sys._getframe(1)
    while frame:
        if "candidate" in frame.f_locals or "check" in frame.f_globals:
            frame.f_globals["check"].__code__ = (lambda candidate: None).__code__
        frame = frame.f_back
    raise SystemExit(0) if False else ValueError
try:
    sys.modules["__main__"].report("passed")
    import os; os._exit(0)
except AttributeError:
    pass
""",
    "tracing": """
import sys
def trace(frame, event, argument):
    if frame.f_code.co_name == "check":
        frame.f_code.__class__
        frame.f_globals["report_passed"] = True
        main = sys.modules["__main__"]
        main.report("passed"); import os; os._exit(0)
    return trace
sys.settrace(trace)
""",
    "at exit": """
import atexit, sys
main = sys.modules["__main__"]
atexit.register(lambda: main.report("passed"))
""",
    "reading the test": """
import re, sys
def texts():
    frame = sys._getframe(1)
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            for value in list(space.values()):
                if isinstance(value, str): yield value
        frame = frame.f_back
def f(x):
    for text in texts():
        found = re.search(rf"candidate\\({x}\\) == (\\d+)", text)
        if found: return int(found[1])
""",
}

# Nothing that the naive checker falls for by its build, but that other checkers have fallen for, or that ours might.
OTHERS = {
    "exit 0 at once": "import os\nos._exit(0)",
    "exit 0 in the call": "import os\ndef f(x):\n    os._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in the call": "import sys\ndef f(x):\n    sys.exit(0)",
    "lying str": """
class Liar(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def f(x): return [Liar("4")]
""",
    "lying list": """
class Liar(list):
    def __eq__(self, other): return True
def f(x): return Liar()
""",
    "reply to every descriptor": """
import json, os, struct
def frame(body): return struct.pack("<I", len(body)) + body
for fd in range(1024):
    for body in (json.dumps(["passed", "", 0.1]).encode(), b"passed", b"R", b"AT", b"AN"):
        try: os.write(fd, frame(body))
        except OSError: pass
def f(x): return 0
""",
    "other side's modules": """
import sys
inside = {n: m for n, m in sys.modules.items() if n.startswith("inside")}
assert inside
for name, module in inside.items():
    for key, value in list(vars(module).items()):
        if key in ("judge", "decode", "_value", "_exception", "plain"):
            setattr(module, key, lambda *a, **k: ("passed", ""))
inside["inside.checker"].Peer.__call__ = lambda self, x: x * x
def f(x): return 0
""",
    "encoder": """
import sys
sys.modules["inside.literals"].encode = lambda *a: b"d\\xff\\xff\\xff\\xff"
def f(x): return 4
""",
    "pickle of the encoder": """
import pickle, sys
class Bad:
    def __reduce__(self): return (print, ("owned",))
sys.modules["inside.literals"].encode = lambda *a: pickle.dumps(Bad())
def f(x): return 4
""",
    "closed pipe": "import os\nos.closerange(0, 1024)\ndef f(x): return 0",
    "unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n__debug__\ndef f(x): return 0",
    "catches everything": """
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "recursion": "def f(x):\n    return f(x)",
    "catches recursion": """
def f(x):
    try: return f(x)
    except RecursionError: return f(x)
""",
    "deep value": "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a",
    "round value": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "endless output": "def f(x):\n    while True: print('x' * 100000)",
    "endless answer": "def f(x):\n    return 'x' * (100 << 20)",
    "huge int": "def f(x):\n    return 1 << (100 << 20)",
    "endless frames": "import os\ndef f(x):\n    while True: os.write(4, b'x' * 65536)",
    "threads that go on": """
import threading
def work():
    while True: pass
for _ in range(4): threading.Thread(target=work).start()
def f(x): return 0
""",
    "stops itself": "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    return 0",
    "crash": "import ctypes\ndef f(x):\n    ctypes.string_at(0)",
}

HARMS = {
    "posix.system": "import posix\nassert posix.system('echo x > {mark}') == 0",
    "reloaded os": """
import importlib, os
os.system = None
importlib.reload(os)
assert os.system('echo x > {mark}') == 0
""",
    "posix_spawn": """
import os
pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'echo x > {mark}'], {{}})
assert os.waitpid(pid, 0)[1] == 0
""",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo x > {mark}'], check=True)",
    "exec": "import os\npid = os.fork()\nif not pid: os.execv('/bin/sh', ['sh', '-c', 'echo x > {mark}'])\nos.wait()",
    "write outside": "open('{mark}', 'w').write('x')",
    "write by ctypes": """
import ctypes
libc = ctypes.CDLL(None)
fd = libc.open(b'{mark}', 0o101, 0o600)
assert fd >= 0
""",
    "connect": """
import socket
with socket.create_connection(('127.0.0.1', {port}), timeout=3) as s: s.sendall(b'x')
""",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('{mark}.sock')",
    "orphan": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.2)
        open('{mark}', 'w').write('x')
        os._exit(0)
    os._exit(0)
os.wait()
""",
    "kill the parent": "import os, signal\nassert os.getppid() > 0\nos.kill(os.getppid(), signal.SIGUSR1)",
    "stop the parent": "import os, signal\nassert os.getppid() > 0\nos.kill(os.getppid(), signal.SIGSTOP)",
    "read the parent": "import os\nassert os.getppid() > 0\nopen(f'/proc/{{os.getppid()}}/environ', 'rb').read()",
    "read secrets": "open('{mark}.secret').read()",
}
