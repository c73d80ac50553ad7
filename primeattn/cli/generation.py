"""The command generate."""

from __future__ import annotations

import codecs
import json

from primeattn._command import add, add_json
from primeattn.kernels import set_num_threads
from primeattn.language_model import stream
from primeattn.train import load_run

__all__ = ["add_command"]


def add_command(commands):
    """Add the command to those of an argparse parser."""
    command = add(
        commands,
        "generate",
        "let a trained model go on with a text",
        ['--prompt "def "', '--run runs/squares --prompt "import " --length 1000 --temperature 0.5'],
        run=_generate,
    )
    command.add_argument(
        "--run", dest="folder", metavar="DIR", default="runs/train", help="folder of the run"
    )
    command.add_argument(
        "--prompt", default="\n", metavar="TEXT", help="text to go on with (default: a new line)"
    )
    command.add_argument("--length", type=int, default=400, metavar="X", help="bytes to write (default: 400)")
    about = "0: always the most likely byte; 1: as likely as the model says (default: 0.8)"
    command.add_argument("--temperature", type=float, default=0.8, metavar="X", help=about)
    command.add_argument("--top-k", type=int, metavar="X", help="draw from the X most likely bytes")
    command.add_argument(
        "--top-p", type=float, metavar="X", help="draw from those that have this probability"
    )
    command.add_argument("--seed", type=int, default=0, metavar="X", help="seed of the draws (default: 0)")
    command.add_argument("--threads", type=int, metavar="X", help="threads of the attention kernels")
    add_json(command)


def _generate(arguments):
    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    config, model, ps, st = load_run(arguments.folder)
    options = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    options |= {"rng": arguments.seed, "context": config.context, "slide": True}
    prompt = arguments.prompt.encode("utf-8", errors="surrogateescape")
    decoder, text = codecs.getincrementaldecoder("utf-8")(errors="replace"), ""
    if not arguments.json:
        print(arguments.prompt, end="", flush=True)
    for [byte] in stream(model, ps, st, [prompt], arguments.length, **options):
        part = decoder.decode(bytes([byte]))
        text += part
        if not arguments.json:
            print(part, end="", flush=True)
    rest = decoder.decode(b"", final=True)
    print(json.dumps({"prompt": arguments.prompt, "text": text + rest}, indent=1) if arguments.json else rest)
