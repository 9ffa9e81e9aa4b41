"""What a real browser makes of picture files: their size on the page, and their pixels on a canvas."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools import browser

#: Long enough for a machine that does other things, too.
TIMEOUT_S = 180

_TYPES = {"jpg": "jpeg", "mpo": "jpeg"}

#: Draws each file on white and sends its pixels back; null for what the browser does not show.
_PAGE = """<!doctype html><meta charset="utf-8"><script>
(async () => {
  const names = await (await fetch("/names")).json();
  for (const name of names) {
    const answer = {name, width: 0, height: 0, pixels: null};
    try {
      const image = new Image();
      image.src = "/picture/" + encodeURIComponent(name);
      await image.decode();
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [answer.width, answer.height] = [image.naturalWidth, image.naturalHeight];
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0);
      const bytes = context.getImageData(0, 0, canvas.width, canvas.height).data;
      let text = "";
      for (let at = 0; at < bytes.length; at += 30000) text += String.fromCharCode(...bytes.subarray(at, at + 30000));
      answer.pixels = btoa(text);
    } catch (error) { }
    await fetch("/answer", {method: "POST", body: JSON.stringify(answer)});
  }
  await fetch("/done", {method: "POST", body: ""});
})();
</script>"""


def executable(name: str) -> str | None:
    """Where `chromium` or `firefox` is, or None."""
    return browser.executable() if name == "chromium" else shutil.which("firefox-esr") or shutil.which("firefox")


def shown(name: str, files: Mapping[str, bytes]) -> dict[str, np.ndarray | None]:
    """(H, W, 3) pixels on white of each file as `chromium` or `firefox` shows it, None where it does not."""
    answers: dict[str, np.ndarray | None] = {}
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Nothing."""

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            path = urllib.parse.unquote(self.path)
            if path == "/names":
                self.answer(json.dumps(list(files)).encode(), "application/json")
            elif path.startswith("/picture/"):
                ending = path.rsplit(".", 1)[-1]
                self.answer(files[path.removeprefix("/picture/")], f"image/{_TYPES.get(ending, ending)}")
            else:
                self.answer(_PAGE.encode(), "text/html")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(b"", "text/plain")
            if self.path == "/done":
                done.set()
                return
            answer = json.loads(body)
            pixels = None
            if answer["pixels"] is not None:
                rgba = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8)
                pixels = rgba.reshape(answer["height"], answer["width"], 4)[..., :3]
            answers[answer["name"]] = pixels

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [*_command(name, Path(profile)), f"http://127.0.0.1:{server.server_address[1]}/"],
            env={**os.environ, "HOME": profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert done.wait(TIMEOUT_S), f"{name} showed {len(answers)} of {len(files)} files in {TIMEOUT_S} s"
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            server.shutdown()
            server.server_close()
    return answers


def _command(name: str, profile: Path) -> list[str]:
    path = executable(name)
    assert path is not None
    if name == "chromium":
        arguments = [*browser.ARGUMENTS, "--force-color-profile=srgb", "--remote-debugging-port=0"]
        return [path, *arguments, f"--user-data-dir={profile}"]
    settings = {"datareporting.policy.dataSubmissionEnabled": False, "app.update.enabled": False}
    lines = [f"user_pref({json.dumps(key)}, {json.dumps(value)});" for key, value in settings.items()]
    (profile / "user.js").write_text("\n".join(lines))
    return [path, "--headless", "--no-remote", "--profile", str(profile)]
