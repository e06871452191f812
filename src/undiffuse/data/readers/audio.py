"""Recordings: a folder of .wav, .flac, .ogg, .mp3, … as signals (channels, length), whole numbers of 16 bits as such.

All have one rate and number of channels.  They are cut to the length of the shortest where that leaves out no more than a quarter of all, which
a note says; else they are padded to the longest, as sequences of unequal length are (data/sequences.py).  The rate is the column `rate`.
Samples are written as recordings of the same kind, rate and depth, those of kinds that lose something as .wav (file_formats.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.arrays import array_dataset
from undiffuse.data.config import DataConfig
from undiffuse.data.damage import refuse_damaged
from undiffuse.data.dataset import Dataset
from undiffuse.data.file_formats import EXACT_RECORDINGS, FileFormat
from undiffuse.data.large_arrays import allocated
from undiffuse.data.readers.folders import classes_of, find
from undiffuse.data.sequences import with_ends
from undiffuse.errors import UsageError
from undiffuse.system import optional

RECORDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
MOST_CUT = 0.25  # of all samples


def audio_folder(root: Path, config: DataConfig) -> Dataset:
    """The recordings of a folder. Raises UsageError where rates or channels differ, or one is empty, Failure without soundfile."""
    found = find(root, RECORDINGS, "recording")
    files, names = found.files, found.names
    soundfile: Any = optional("soundfile")
    heads = []
    for path in files:
        with refuse_damaged(path, "a recording"):
            heads.append(soundfile.info(str(path)))
    for attribute, what in (("samplerate", "rates"), ("channels", "numbers of channels")):
        counts = Counter(getattr(head, attribute) for head in heads)
        if len(counts) > 1:
            (common, _), (other, _) = counts.most_common(2)
            odd = next(name for name, head in zip(names, heads, strict=True) if getattr(head, attribute) == other)
            raise UsageError(
                f"the recordings in {root} are of {len(counts)} {what}: most have {common}, {odd} has {other}; make them one."
            )
    lengths = np.array([head.frames for head in heads])
    shortest = int(lengths.min())
    left_out = 1 - shortest * len(lengths) / max(1, lengths.sum())
    if shortest == 0:
        raise UsageError(f"the recording {names[int(lengths.argmin())]} in {root} is empty: leave it out.")
    padded = left_out > MOST_CUT
    longest = int(lengths.max()) if padded else shortest
    whole = all(head.subtype == "PCM_16" for head in heads)
    values = allocated((len(files), heads[0].channels, longest), np.int16 if whole else np.float32)
    for row, path in enumerate(files):
        with refuse_damaged(path, "a recording"):
            signal = soundfile.read(str(path), frames=longest, dtype=values.dtype.name, always_2d=True)[0].T
            values[row, :, : signal.shape[1]] = signal
    labels, notes = classes_of(root, names)
    columns = {"file": np.array(names), "rate": np.full(len(files), float(heads[0].samplerate))}
    data = array_dataset(root.resolve().name, values, None if labels is None else np.array(labels), "NCL", columns)
    data = with_ends(data, lengths) if padded else data
    suffix = Counter(path.suffix.lower() for path in files).most_common(1)[0][0]
    subtypes = {head.subtype for head in heads}
    exact = suffix in EXACT_RECORDINGS and len(subtypes) == 1
    file_format = FileFormat(
        kind="recording",
        suffix=suffix if exact else ".wav",
        dtype=values.dtype.name,
        rate=heads[0].samplerate,
        subtype=subtypes.pop() if exact else "PCM_16" if whole else "FLOAT",
    )
    seconds = f"{shortest / heads[0].samplerate:.3g} s each"
    seconds = f"{shortest / heads[0].samplerate:.3g} to {longest / heads[0].samplerate:.3g} s" if padded else seconds
    notes += [f"recordings of {heads[0].samplerate:,} samples a second, {seconds}"]
    cut = not padded and left_out > 0
    notes += [f"cut to the shortest, which leaves out {left_out:.1%} of all samples"] if cut else []
    return replace(data, root=root, file_format=file_format, notes=(*notes, *found.notes(), *data.notes))
