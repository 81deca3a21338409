"""An examination: all that is looked at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from arxiv_embed.doctor import gpus, machine, records, software
from arxiv_embed.doctor.check import Check, Question, Subject, answers
from arxiv_embed.doctor.torch_seen import SECONDS

THOROUGH_SECONDS = 600.0
"""For the weights of a large model from a slow disk."""


def questions(subject: Subject) -> list[Question]:
    patience = {"seconds": THOROUGH_SECONDS} if subject.thorough else {}
    return [
        Question("Python", software.this_python),
        Question("packages", software.these_packages),
        Question("NVIDIA driver", gpus.of_driver),
        Question("torch", gpus.of_torch, SECONDS + 5),
        Question("memory", machine.this_memory),
        Question("disks", partial(machine.disks, subject)),
        Question("rights", partial(machine.rights, subject)),
        Question("shared memory", machine.shared_memory),
        Question("open files", machine.these_open_files),
        Question("clocks", partial(machine.clocks, subject)),
        Question("model", partial(software.model, subject), **patience),
        Question("store", partial(records.store, subject)),
        Question("Dagster's database", partial(records.dagster_database, subject)),
        Question("devices", partial(records.leases, subject)),
        Question("last run", partial(records.killed, subject)),
        Question("quarantine", partial(records.quarantine, subject)),
    ]


def examine(subject: Subject) -> Iterator[Check]:
    """Every answer, as soon as those before it are there."""
    return answers(questions(subject))
