"""Train one stage without Ray, from the job file in a stage run's folder.

python -m remora.training ~/remora/stages/<stage run>/job.json
torchrun --nproc-per-node 2 -m remora.training …/job.json

SIGTERM saves a checkpoint at once; a second one ends the process.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch.distributed as dist

from remora.errors import RemoraError, SpecError
from remora.training import preemption
from remora.training.job import StageJob
from remora.training.stage import run
from remora.training.torchrun import ALONE, join, leave


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m remora.training JOB.json")
    try:
        result = _train(_job(Path(sys.argv[1])))
    except RemoraError as e:
        sys.exit(f"remora: {e}")
    if int(os.environ["RANK"]) == 0:
        sys.stdout.write(
            f"{result['steps']} steps, loss {result['loss']:.4f}, {result['seconds']:.1f} s, "
            f"{result['waited']:.2%} of its steps' time waited for data\n"
        )


def _job(file: Path) -> StageJob:
    """Raises:
    SpecError: it does not exist, or is not a stage run's job.
    """
    writes = "`remora train` writes one into the folder of each stage run that it trains"
    try:
        return StageJob.from_json(file.read_text(), _runs(file))
    except OSError as e:
        raise SpecError(f"{file}: {e.strerror}; {writes}") from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise SpecError(f"{file} is not a job.json of this version; {writes}") from e


def _runs(file: Path) -> Path:
    """The run folder of a job file: `<runs>/stages/<stage run>/job.json`."""
    above = Path(os.path.abspath(file)).parents  # noqa: PTH100 (`..` is taken out, links stay)
    return above[min(2, len(above) - 1)]


def _train(job: StageJob) -> dict[str, float]:
    """`run` as a rank of torchrun's process group, or as a single process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    preemption.listen()
    join({name: os.environ.get(name, value) for name, value in ALONE.items()})
    try:
        return run(job, preemption.given)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
