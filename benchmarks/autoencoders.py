"""Which autoencoder by 4 keeps most of 64×64 pictures for the same work? One processor core, by processor time.

    python -m benchmarks.autoencoders emoji/captions.csv

Each trains until so many seconds of the processor's time are spent, then says the PSNR of reconstructions of held-out pictures and
their Fréchet distance to them over 64 principal components.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, table, write
from undiffuse.data.codec import fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_data
from undiffuse.evaluation.autoencoder import reconstruction_quality
from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig
from undiffuse.runs.autoencoder import AutoencoderRun, AutoencoderRunConfig
from undiffuse.runs.design import LatentDesign
from undiffuse.training.settings import TrainingConfig

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "3 levels from full resolution": ({"channels": (16, 32, 64)}, {}),
    "2 levels from half": ({"channels": (32, 64), "patch": 2}, {}),
    "1 level at a quarter": ({"channels": (64,), "patch": 4}, {}),
    "1 level at a quarter, wider": ({"channels": (96,), "patch": 4}, {}),
    "1 level at a quarter, deeper": ({"channels": (64,), "patch": 4, "depth": 2}, {}),
    "1 level at a quarter, batches of 32": ({"channels": (64,), "patch": 4}, {"batch_size": 32}),
    "1 level at a quarter, 8 channels": ({"channels": (64,), "patch": 4, "latent_channels": 8}, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where, data = machine(), open_data(DataConfig(source=options.pictures, size=(64, 64), channels="rgb"))
    codec, split, rows = fitted_codec(data), data.split_rows(0.1, 0), list[dict[str, Any]]()
    for name, (network, training) in VARIANTS.items():
        autoencoder = KLAutoencoderConfig(**({"middle_attention": False} | network))
        # the learning rate is kept: how fast it should fall depends on how much can be done in the time
        how = TrainingConfig(**({"steps": 10**6, "batch_size": 8, "cooldown": 0.0, "ema_decay": 0.99} | training))
        config = AutoencoderRunConfig(
            design=LatentDesign(autoencoder=autoencoder, training=how),
            codec=codec,
            fingerprint="-",
            held_out=0.1,
            seed=0,
        )
        with tempfile.TemporaryDirectory() as folder:
            work = AutoencoderRun(Path(folder) / "a", config, data, split, torch.device("cpu"))
            began = time.process_time()
            for _ in work.updates():
                if time.process_time() - began >= options.seconds:
                    break
            work.finish()
            found = reconstruction_quality(work)
        parameters = sum(p.numel() for p in work.both.autoencoder.parameters())
        rows.append(
            {
                "autoencoder": name,
                "parameters": parameters,
                "steps": work.loop.step,
                "psnr": found.psnr,
                "frechet": found.frechet,
            }
        )
        print(rows[-1], flush=True)
    cells = [
        [r["autoencoder"], f"{r['parameters']:,}", f"{r['steps']:,}", f"{r['psnr']:.1f} dB", f"{r['frechet']:.1f}"]
        for r in rows
    ]
    print(table(["autoencoder", "parameters", "steps", "reconstructions", "their Fréchet distance"], cells))
    write("autoencoders", {"machine": where, "seconds": options.seconds, "rows": rows})


if __name__ == "__main__":
    main()
