"""What a person probably meant: for the errors of the command line, and for those of a machine that is too small."""

from __future__ import annotations

import argparse
import difflib
import re

# What other detectors' programs call our commands and options.
_COMMANDS = {
    "val": "eval",
    "validate": "eval",
    "test": "eval",
    "evaluate": "eval",
    "detect": "predict",
    "infer": "predict",
    "inference": "predict",
    "fit": "train",
    "help": "--help",
    "version": "--version",
}
_OPTIONS = {
    "--imgsz": "--image-size",
    "--img": "--image-size",
    "--img-size": "--image-size",
    "--size": "--image-size",
    "--lr0": "--lr",
    "--learning-rate": "--lr",
    "--bs": "--batch-size",
    "--conf": "--score",
    "--conf-thres": "--score",
    "--threshold": "--score",
    "--project": "--run",
    "--name": "--run",
    "--output": "--out",
    "--save-dir": "--out",
    "--weights": "--run",
    "--num-workers": "--workers",
}
_POSITIONAL = {
    "--source": "pictures are named without an option: tinyssd predict photo.jpg",
    "--input": "pictures are named without an option: tinyssd predict photo.jpg",
    "--model": "the network's shape is set by --config FILE, a trained one is named by --run DIR",
    "--cfg": "settings are read by --config FILE",
    "--hyp": "settings are read by --config FILE",
}


def advice(message: str, parser: argparse.ArgumentParser) -> str:
    """What to add to a message of argparse's; "" where nothing comes to mind."""
    if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
        return _meant(found[1], re.findall(r"[\w.-]+", found[2]), _COMMANDS)
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        word = found[1].partition("=")[0]
        if not word.startswith("-"):
            settings = f"options are written with dashes, as in --{word} " if "=" in found[1] else ""
            return settings and settings + found[1].partition("=")[2]
        return _POSITIONAL.get(word) or _meant(word, _options(parser), _OPTIONS)
    return ""


def _meant(word: str, known: list[str], names: dict[str, str]) -> str:
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    guess = names.get(word.lower()) or (close[0] if close else "")
    return f"did you mean {guess}?" if guess else ""


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a parser and of its commands."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            found += [option for command in action.choices.values() for option in _options(command)]
    return found


def out_of_resources(error: Exception) -> str | None:
    """One sentence for memory that ran out or a process that was killed; None for any other error."""
    text = str(error)
    smaller = "try a smaller --batch-size or --image-size"
    if "CUDA out of memory" in text or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory on the GPU; {smaller}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"out of memory; {smaller}, or fewer --workers"
    killed = re.search(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)", text, re.DOTALL)
    if killed or isinstance(error, ConnectionResetError):
        return (
            "a process that reads pictures was killed, most often because memory ran out; try fewer --workers (0 reads "
            "them in the main process) or smaller pictures"
        )
    if "gloo" in text and re.search("closed by peer|reset by peer|timed out|refused", text, re.IGNORECASE):
        return "another process of this training has ended"
    if "unable to mmap" in text or "No space left on device" in text or "shared memory" in text:
        return "shared memory ran out (/dev/shm, often small in a container); try --workers 0"
    return None
