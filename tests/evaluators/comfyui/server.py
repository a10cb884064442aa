"""A server on loopback that speaks ComfyUI's protocol: it checks workflows as ComfyUI does and answers in its words.

It draws one flat picture per workflow whose colour follows from everything that would change ComfyUI's picture, and
remembers what it computed, as ComfyUI does, until it is asked to forget.
"""

from __future__ import annotations

import io
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SAMPLERS, SCHEDULERS = ["euler", "er_sde"], ["simple", "normal"]


class FakeComfyUI:
    """What the server knows. Tests set how it misbehaves; `drawn` counts what it really computed."""

    def __init__(self, loras: list[str], folder: Path | None = None) -> None:
        self.loras, self.folder = loras, folder
        self.lacks: set[str] = set()
        self.fails_on: str = ""
        """A kind of node whose execution raises."""
        self.silent = False
        """Takes workflows and never ends one."""
        self.forgets_queue = False
        self.half = False
        """Queues workflows with faults all the same, as for outputs that do not depend on these."""
        self.format = "PNG"
        self.size: tuple[int, int] | None = None
        self.pictures = 1
        self.token = ""
        self.asked: list[dict[str, Any]] = []
        self.drawn: list[str] = []
        self.requests: list[str] = []
        self.cancelled: list[str] = []
        self._lock = threading.Lock()
        self._history: dict[str, Any] = {}
        self._queue: list[tuple[int, str, dict[str, Any]]] = []
        self._files: dict[str, bytes] = {}
        self._computed: dict[str, bytes] = {}

    def node(self, kind: str) -> dict[str, Any]:
        """`/object_info/KIND`."""
        loras = [*self.loras, *self._linked()]
        known: dict[str, dict[str, Any]] = {
            "UNETLoader": {"unet_name": [["anima-base-v1.0.safetensors"]], "weight_dtype": [["default"]]},
            "CLIPLoader": {"clip_name": [["qwen_3_06b_base.safetensors"]], "type": [["stable_diffusion"]]},
            "VAELoader": {"vae_name": [["qwen_image_vae.safetensors"]]},
            "CheckpointLoaderSimple": {"ckpt_name": [["xl.safetensors"]]},
            "LoraLoaderModelOnly": {"model": ["MODEL"], "lora_name": [loras], "strength_model": ["FLOAT", {}]},
            "LoraLoader": {
                "model": ["MODEL"],
                "clip": ["CLIP"],
                "lora_name": ["COMBO", {"options": loras}],
                "strength_model": ["FLOAT", {}],
                "strength_clip": ["FLOAT", {}],
            },
            "ModelSamplingAuraFlow": {"model": ["MODEL"], "shift": ["FLOAT", {}]},
            "CLIPTextEncode": {"clip": ["CLIP"], "text": ["STRING", {}]},
            "EmptyLatentImage": {"width": ["INT", {}], "height": ["INT", {}], "batch_size": ["INT", {}]},
            "KSampler": {
                **{name: [kind] for name, kind in (("model", "MODEL"), ("positive", "C"), ("negative", "C"))},
                "latent_image": ["LATENT"],
                "seed": ["INT", {}],
                "steps": ["INT", {}],
                "cfg": ["FLOAT", {}],
                "sampler_name": [SAMPLERS],
                "scheduler": [SCHEDULERS],
                "denoise": ["FLOAT", {}],
            },
            "VAEDecode": {"samples": ["LATENT"], "vae": ["VAE"]},
            "PreviewImage": {"images": ["IMAGE"]},
            "SaveImage": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]},
        }
        if kind not in known or kind in self.lacks:
            return {}
        return {kind: {"input": {"required": known[kind]}, "output_node": kind in ("PreviewImage", "SaveImage")}}

    def submit(self, graph: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """`POST /prompt`: (status, answer)."""
        faults = {node: said for node, body in graph.items() if (said := self._faults(graph, body))}
        if faults and not self.half:
            message = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return 400, {"error": {**message, "details": "", "extra_info": {}}, "node_errors": faults}
        prompt_id = str(uuid.uuid4())
        with self._lock:
            self.asked.append(graph)
            if not self.forgets_queue:
                self._queue.append((len(self.asked), prompt_id, graph))
        if not self.silent:
            self._execute()
        return 200, {"prompt_id": prompt_id, "number": len(self.asked), "node_errors": faults}

    def history(self, prompt_id: str) -> dict[str, Any]:
        """`/history/ID`."""
        with self._lock:
            return {prompt_id: self._history[prompt_id]} if prompt_id in self._history else {}

    def queue(self) -> dict[str, Any]:
        """`GET /queue`: the first is running, the others wait."""
        with self._lock:
            items = [[number, prompt_id, {}, {}, []] for number, prompt_id, _ in self._queue]
        return {"queue_running": items[:1], "queue_pending": items[1:]}

    def cancel(self, prompt_ids: list[str]) -> None:
        """`POST /queue` with `delete`, which takes only what waits, or `/interrupt`."""
        with self._lock:
            self.cancelled += prompt_ids
            self._queue = [item for item in self._queue if item[1] not in prompt_ids]

    def forget(self) -> None:
        """`POST /free`."""
        self._computed.clear()

    def file(self, name: str) -> bytes | None:
        """`/view`."""
        return self._files.get(name)

    def _linked(self) -> list[str]:
        if self.folder is None:
            return []
        return [path.relative_to(self.folder).as_posix() for path in sorted(self.folder.rglob("*.safetensors"))]

    def _faults(self, graph: dict[str, Any], body: dict[str, Any]) -> dict[str, Any] | None:
        kind, found = body["class_type"], []
        declared = self.node(kind).get(kind, {}).get("input", {}).get("required", {})
        for name, spec in declared.items():
            listed = spec[1]["options"] if spec[0] == "COMBO" else spec[0]
            value = body["inputs"].get(name)
            if value is None:
                found.append(("required_input_missing", "Required input is missing", name))
            elif isinstance(value, list) and value[0] not in graph:
                found.append(("bad_linked_input", "Bad linked input, must be a length-2 list", name))
            elif isinstance(listed, list) and value not in listed:
                found.append(("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {listed}"))
            elif spec[0] == "INT" and not isinstance(value, int):
                found.append(("invalid_input_type", "Failed to convert an input value to a INT value", name))
        errors = [{"type": t, "message": m, "details": d, "extra_info": {}} for t, m, d in found]
        return {"errors": errors, "dependent_outputs": ["11"], "class_type": kind} if errors else None

    def _execute(self) -> None:
        with self._lock:
            number, prompt_id, graph = self._queue.pop(0) if self._queue else (0, "", {})
            if not number:
                return
            failing = next((node for node, body in graph.items() if body["class_type"] == self.fails_on), None)
            if failing:
                about = {"node_id": failing, "node_type": self.fails_on, "exception_type": "torch.OutOfMemoryError"}
                messages = [
                    ["execution_start", {}],
                    ["execution_error", {**about, "exception_message": "CUDA out of\nmemory"}],
                ]
                self._history[prompt_id] = {
                    "outputs": {},
                    "status": {"status_str": "error", "completed": False, "messages": messages},
                }
                return
            images = []
            for n in range(self.pictures):
                name = f"picture_{number:05}_{n}_.png"
                self._files[name] = self._draw(graph)
                images.append({"filename": name, "subfolder": "", "type": "temp"})
            outputs = {node: {"images": images} for node, body in graph.items() if "Image" in body["class_type"][-5:]}
            outputs.pop("8", None)
            status = {"status_str": "success", "completed": True, "messages": [["execution_start", {}]]}
            self._history[prompt_id] = {"outputs": outputs, "status": status}

    def _draw(self, graph: dict[str, Any]) -> bytes:
        said = json.dumps(graph, sort_keys=True)
        if said not in self._computed:
            self.drawn.append(said)
            latent = next(body["inputs"] for body in graph.values() if body["class_type"] == "EmptyLatentImage")
            size = self.size or (latent["width"], latent["height"])
            colour = sha256(said.encode()).digest()
            text = PngInfo()
            text.add_text("prompt", said)
            stream = io.BytesIO()
            more = {"pnginfo": text} if self.format == "PNG" else {}
            Image.new("RGB", size, (colour[0], colour[1], colour[2])).save(stream, self.format, **more)
            self._computed[said] = stream.getvalue()
        return self._computed[said]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    comfyui: FakeComfyUI

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.comfyui.requests.append(f"GET {url.path}")
        if self.comfyui.token and self.headers.get("Authorization") != f"Bearer {self.comfyui.token}":
            return self._say({"error": "unauthorised"}, 401)
        parts = url.path.strip("/").split("/")
        match parts:
            case ["system_stats"]:
                system = {"comfyui_version": "0.9.1", "pytorch_version": "2.13.0+cu130"}
                return self._say({"system": system, "devices": [{"name": "cuda:0 Some GPU", "type": "cuda"}]})
            case ["object_info", kind]:
                return self._say(self.comfyui.node(kind))
            case ["history", prompt_id]:
                return self._say(self.comfyui.history(prompt_id))
            case ["queue"]:
                return self._say(self.comfyui.queue())
            case ["view"]:
                asked = parse_qs(url.query)
                data = self.comfyui.file(asked["filename"][0]) if asked.get("type") == ["temp"] else None
                return self._say({}, 404) if data is None else self._send(data, "image/png")
        return self._say({}, 404)

    def do_POST(self) -> None:
        self.comfyui.requests.append(f"POST {self.path}")
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.path:
            case "/prompt":
                status, answer = self.comfyui.submit(said["prompt"])
                return self._say(answer, status)
            case "/queue":
                self.comfyui.cancel(said["delete"])
            case "/interrupt":
                self.comfyui.cancel([said["prompt_id"]])
            case "/free":
                self.comfyui.forget()
        return self._send(b"", "text/plain")

    def _say(self, answer: object, status: int = 200) -> None:
        self._send(json.dumps(answer).encode(), "application/json", status)

    def _send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(comfyui: FakeComfyUI) -> Iterator[str]:
    """The server's address, while it runs."""
    handler = type("Handler", (_Handler,), {"comfyui": comfyui})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
