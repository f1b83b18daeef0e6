"""llama-server as a peer: an optional row, since it has to be built.

    python -m benchmarks.llama_server BUILD_FOLDER    # about 5 minutes on two cores
    LLAMA_SERVER=BUILD_FOLDER make bench

It is built from the source distribution of llama-cpp-python on PyPI, and runs with two threads and `--poll 0`: with its
default polling it is up to 30 times slower on two cores.
"""

import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.models import ADAPTERS, adapter_folder, random_prompts
from benchmarks.ours import weights

SOURCE = "llama-cpp-python==0.3.36"
CONVERTERS = ("gguf", "sentencepiece", "torch==2.13.0", "transformers", "numpy", "pyyaml", "safetensors", "protobuf")
PRECISION = {"float32": "f32", "bfloat16": "bf16"}


def find() -> Path | None:
    """The build folder that LLAMA_SERVER names."""
    folder = os.environ.get("LLAMA_SERVER")
    return Path(folder).resolve() if folder else None


def build(folder: Path) -> None:
    """Fetch the source, build the server, and make an environment for its converters."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", SOURCE, "-d", str(folder)]
    subprocess.run(pip, check=True)
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"]
    options += ["-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=ON"]
    subprocess.run(["cmake", "-S", source(folder), "-B", folder / "build", *options], check=True)
    subprocess.run(["cmake", "--build", folder / "build", "--target", "llama-server", "-j"], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    subprocess.run([folder / "venv/bin/python", "-m", "pip", "install", *CONVERTERS], check=True)


def source(folder: Path) -> Path:
    return next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))


def convert(server: Path, models: Path, dtype: str) -> tuple[Path, list[Path]]:
    """The base and its adapters as GGUF files, made once."""
    python, kind = server / "venv/bin/python", PRECISION[dtype]
    write_tokenizer(python, models / "base")
    base = models / f"base-{kind}.gguf"
    if not base.exists():
        script = source(server) / "convert_hf_to_gguf.py"
        _quietly([python, script, models / "base", "--outfile", base, "--outtype", kind])
    adapters = [models / f"adapter{index}-{kind}.gguf" for index in range(ADAPTERS)]
    for index, adapter in enumerate(adapters):
        if not adapter.exists():
            script = source(server) / "convert_lora_to_gguf.py"
            paths = [adapter_folder(models, index), "--base", models / "base"]
            _quietly([python, script, *paths, "--outfile", adapter, "--outtype", kind])
    return base, adapters


def write_tokenizer(python: Path, base: Path) -> None:
    """The converter wants a tokenizer; any will do, since prompts are token ids."""
    if (base / "tokenizer.model").exists():
        return
    script = (
        "import sentencepiece, sys\n"
        "sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(open(sys.argv[1])), model_prefix=sys.argv[2],"
        " vocab_size=512, model_type='bpe', byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)\n"
    )
    _quietly([python, "-c", script, Path(__file__), base / "tokenizer"])
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))


def _quietly(command: Sequence[Any]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")


class Server:
    """A running llama-server: where, and as which process."""

    def __init__(self, address: str, process: int) -> None:
        self.address = address
        self.process = process

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=600))

    def profiles(self, count: int, tokens: int) -> float:
        """Tokens per second over concurrent requests with different 4-expert profiles, with their prefills."""
        start = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            replies = list(pool.map(lambda index: self.complete(index, tokens), range(count)))
        said = sum(reply["tokens_predicted"] for reply in replies)
        if said != count * tokens:
            raise RuntimeError(f"llama-server said {said} tokens instead of {count * tokens}")
        return float(said / (time.perf_counter() - start))

    def complete(self, index: int, tokens: int) -> Any:
        """All scales are given: those left out would keep their last value."""
        scales = [*weights(index), *([0.0] * (ADAPTERS - 4))]
        return self.ask("/completion", {
            "prompt": list(random_prompts(index + 1)[index]), "n_predict": tokens, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False, "lora": [{"id": i, "scale": scale} for i, scale in enumerate(scales)],
        })  # fmt: skip


@contextmanager
def serving(build_folder: Path, models: Path, dtype: str) -> Iterator[Server]:
    """A server with eight slots, until the block ends."""
    base, adapters = convert(build_folder, models, dtype)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cache = PRECISION[dtype]
    command = [
        next(build_folder.glob("build/bin/llama-server")), "-m", base, "--host", "127.0.0.1", "--port", port, "-t", 2,
        "--poll", 0, "--prio", 0, "-np", 8, "-c", 4096, "-ctk", cache, "-ctv", cache, "--lora",
        ",".join(map(str, adapters)), "--lora-init-without-apply", "--no-webui", "--no-warmup",
    ]  # fmt: skip
    with open(models / "llama-server.log", "w") as log:
        # Threads that sleep at its barriers, as this setting of ours has them do, make it several times slower.
        own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, env=own)
        try:
            yield _ready(Server(f"http://127.0.0.1:{port}", process.pid), process)
        finally:
            process.terminate()
            process.wait(20)


def _ready(server: Server, process: "subprocess.Popen[bytes]") -> Server:
    for _ in range(240):
        if process.poll() is not None:
            raise RuntimeError("llama-server ended; its log is llama-server.log beside the models")
        try:
            server.ask("/health")
            return server
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise RuntimeError("llama-server did not get ready in two minutes")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
