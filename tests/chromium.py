"""A headless Chromium, spoken to in its DevTools protocol through a pipe."""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-pipe",
    "--no-first-run",
)


class Page:
    """One tab, of the browser that `opened` started.

    Attributes:
        complaints: What the console, the log and uncaught exceptions said.
        fetched: Addresses that were asked for, but for the page's own and data.
    """

    def __init__(self, send, receive):
        self._send, self._receive, self._count = send, receive, 0
        self._session = None
        self.complaints, self.fetched, self._loaded = [], [], False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._send(message if self._session is None else {**message, "sessionId": self._session})
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._hear(answer)

    def look(self, width=1280, height=900, scheme="light", media="screen"):
        """Sets size and colour scheme; a width below 500 is a phone with a touch screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 500)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])

    def open(self, path):
        """Opens a file and waits for its load event."""
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._hear(self._receive())

    def run(self, script):
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def mouse(self, kind, x, y):
        """A mouse event: "Pressed", "Moved" or "Released", with the left button."""
        parameters = {"x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", **parameters)

    def touch(self, kind, *fingers):
        """A touch event: "Start", "Move" or "End", with where the fingers are that touch."""
        points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(fingers)]
        self.call("Input.dispatchTouchEvent", type=f"touch{kind}", touchPoints=points)
        # what a finger's move does is told with the next picture
        self.run("new Promise(drawn => requestAnimationFrame(() => setTimeout(drawn)))")

    def key(self, name):
        """Presses a key and lets it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def _hear(self, event):
        method, said = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(said)
        elif method == "Network.requestWillBeSent":
            address = said["request"]["url"]
            if not address.startswith("data:") and address != said["documentURL"]:
                self.fetched.append(address)


@contextmanager
def opened():
    """A page of a fresh browser, which ends with the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the browser reads from descriptor 3 and writes to 4
        line = f'exec "$@" 3<&{to_read} 4>&{from_write}'
        process = subprocess.Popen(
            ["bash", "-c", line, "bash", PROGRAM, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        buffer = b""

        def send(message):
            os.write(to_write, json.dumps(message).encode() + b"\0")

        def receive():
            nonlocal buffer
            while b"\0" not in buffer:
                part = os.read(from_read, 1 << 20)
                assert part, "the browser ended"
                buffer += part
            message, buffer = buffer.split(b"\0", 1)
            return json.loads(message)

        try:
            yield Page(send, receive)
        finally:
            process.terminate()
            process.wait()
            os.close(to_write)
            os.close(from_read)
