"""The command study."""

from __future__ import annotations

import json
from pathlib import Path

from primeattn._command import add, add_json
from primeattn.checks import as_int
from primeattn.kernels import get_num_threads
from primeattn.table import Table

__all__ = ["STUDIES", "add_command"]

STUDIES = ("needle", "mqar", "text", "copy", "induction", "pixels")


def add_command(commands):
    """Add the command to those of an argparse parser."""
    command = add(
        commands,
        "study",
        "train many patterns on a task, and compare them with what theory predicts",
        [
            "needle --quick",
            "mqar --out runs/mqar --jobs 2",
            "text --patterns primes 'window as primes' --seeds 5",
        ],
        run=_study,
    )
    command.add_argument("study", metavar="STUDY", choices=STUDIES, help=f"one of {', '.join(STUDIES)}")
    about = "sequences as for mask, dense, or controls such as 'window as primes' and 'random as primes'"
    several = {"nargs": "+", "metavar": "X"}
    command.add_argument("--patterns", help=about, **several)
    command.add_argument("--layers", type=int, help="numbers of layers", **several)
    command.add_argument("--lr", dest="lrs", type=float, help="learning rates to choose from", **several)
    command.add_argument("--seeds", type=int, metavar="X", help="number of seeds")
    command.add_argument("--steps", type=int, metavar="X", help="training steps of a run")
    about = "runs at a time (default: as many as threads)"
    command.add_argument("--jobs", type=int, metavar="X", help=about)
    about = "a small version, in under two minutes on two cores"
    command.add_argument("--quick", action="store_true", help=about)
    about = "output folder; runs that it has are not trained again (default: runs/study-STUDY, or ...-quick)"
    command.add_argument("--out", metavar="DIR", help=about)
    add_json(command)


def _study(arguments):
    from primeattn import study
    from primeattn.study.predictions import write_predictions
    from primeattn.study.report import COLUMNS

    changes = {name: getattr(arguments, name) for name in ("patterns", "layers", "lrs", "seeds", "steps")}
    protocol = study.protocol(arguments.study, arguments.quick, **changes)
    quick = "-quick" if arguments.quick else ""
    out = Path(arguments.out or f"runs/study-{arguments.study}{quick}")
    jobs = as_int("jobs", get_num_threads() if arguments.jobs is None else arguments.jobs, minimum=1)
    runs = study.protocol_runs(protocol)
    write_predictions(out / "predictions.json", protocol, runs)
    try:
        records = study.run(runs, out=out, jobs=jobs)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on with the runs that {out} does not have") from None
    found = study.report(protocol, records, out)
    if found["failed"] == len(records):
        raise RuntimeError(f"all {len(records)} runs failed: {records[0]['result']['error']}")
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(Table({name: row[name] for name in COLUMNS} for row in found["summary"]))
    if found["differences"]:
        print("", found["differences"], sep="\n")
    print("", f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}", sep="\n")
