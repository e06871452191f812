"""Are near-duplicates found, and are different pictures left apart?

    python -m benchmarks.duplicates DATA [--n 5000] [--planted 200] [--seed 1] [--table captions.csv --same caption]

Takes n pictures of DATA at random and plants altered copies of some among them, a quarter each

    resized         to 0.6 … 3 times their size and back
    compressed      as JPEG of quality 50 … 90
    cropped         by 5 % of each side, at a random place
    brighter        or darker, by 8 … 25 %

Found: the share of planted copies that are in one cluster with their original.  Joined: pictures that were not planted and are in a cluster with
another one that was not planted; of these, unlike: those of a cluster whose pictures have different values of the column `same`, such as a
caption: the same flag drawn for two collections is no mistake.  The clusters that are unlike are drawn, to be looked at.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.common import machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.inspection.duplicates import find_duplicates
from undiffuse.data.sources import open_data
from undiffuse.pictures.sheets import sheet

ALTERED = ("resized", "compressed", "cropped", "brighter")


def altered(image: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    if kind == "resized":
        factor = rng.uniform(0.6, 3)
        return image.resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS).resize(
            (width, height), Image.Resampling.LANCZOS
        )
    if kind == "compressed":
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(50, 91)))
        return Image.open(stream).convert(image.mode)
    if kind == "cropped":
        left, top = rng.random(2) * 0.05 * (width, height)
        return image.resize(
            (width, height), Image.Resampling.BICUBIC, box=(left, top, left + 0.95 * width, top + 0.95 * height)
        )
    return ImageEnhance.Brightness(image).enhance(float(rng.choice([rng.uniform(0.75, 0.92), rng.uniform(1.08, 1.25)])))


def plain(values: np.ndarray) -> Image.Image:
    """An example (C, H, W) of bytes, without alpha."""
    whole = Image.fromarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, -1))
    if len(values) % 2:
        return whole
    white = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(white, whole.convert("RGBA")).convert("L" if len(values) == 2 else "RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    for name, default in (("--n", 5000), ("--planted", 200), ("--seed", 1), ("--size", None)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--table")
    parser.add_argument("--same")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    size = (args.size, args.size) if args.size else None
    data = open_data(DataConfig(source=args.data, table=args.table, size=size))
    rng = np.random.default_rng(args.seed)
    rows = np.sort(rng.permutation(len(data))[: args.n])
    base = [plain(values) for values in data.values[rows]]
    of = rng.permutation(len(rows))[: args.planted]
    planted = [altered(base[k], ALTERED[i % 4], rng) for i, k in enumerate(of)]
    pixels = np.stack([np.asarray(image) for image in base + planted])
    values = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    began = time.perf_counter()
    found = find_duplicates(Dataset("planted", np.ascontiguousarray(values), mode="L" if pixels.ndim == 3 else "RGB"))
    seconds = time.perf_counter() - began
    label = found.labels(len(values))
    recall = {
        kind: float(np.mean([label[len(rows) + i] == label[k] for i, k in enumerate(of) if ALTERED[i % 4] == kind]))
        for kind in ALTERED
    }
    whole = float(np.mean([label[len(rows) + i] == label[k] for i, k in enumerate(of)]))
    own = [cluster[cluster < len(rows)] for cluster in found.near]
    own = [cluster for cluster in own if len(cluster) > 1]
    meant = None if args.same is None else data.columns[args.same][rows]
    unlike = [cluster for cluster in own if meant is None or len(set(meant[cluster])) > 1]
    joined, different = sum(map(len, own)), sum(map(len, unlike))
    print(
        table(
            ["planted", "found"], [*((kind, f"{share:.1%}") for kind, share in recall.items()), ("all", f"{whole:.1%}")]
        )
    )
    print(
        f"joined {joined} of {len(rows)} ({joined / len(rows):.2%}), unlike {different} ({different / len(rows):.2%}); {seconds:.1f} s"
    )
    if args.picture and unlike:
        blank = np.full_like(np.asarray(base[0].convert("RGB")), 255)
        shown = [[np.asarray(base[k].convert("RGB")) for k in cluster[:4]] for cluster in unlike[:60]]
        flat = [picture for row in shown for picture in [*row, *[blank] * (4 - len(row))]]
        sheet(
            [flat[k : k + 16] for k in range(0, len(flat), 16)],
            title="unlike by their names, joined as near-duplicates",
        ).save(args.picture)
    name = Path(args.data).name.split(".")[0]
    write(f"duplicates_{name}", {"machine": machine(), "data": name, "n": len(rows), "planted": args.planted, "seed": args.seed, "found": recall, "found_all": whole,
          "joined": joined, "unlike": different, "seconds": round(seconds, 2)})  # fmt: skip


if __name__ == "__main__":
    main()
