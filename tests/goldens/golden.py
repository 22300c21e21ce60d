"""Writes *.safetensors next to this file: python golden.py [--full]  (--full adds tiny/small/base logits)."""
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import fbank_torch as fb
import ssamba_torch as sm
import ssast_torch as st

OUT = Path(__file__).parent
torch.set_grad_enabled(False)


def write(name, **tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, OUT / f"{name}.safetensors")
    print(name, {k: tuple(v.shape) for k, v in tensors.items()} if len(tensors) < 12 else f"{len(tensors)} tensors")


def weights(model, skip=("v.head",)):
    return {"w." + k: v for k, v in model.state_dict().items() if not k.startswith(skip)}


n = torch.arange(16000) / 16000.0
wave = (0.3 * torch.sin(2 * math.pi * 440 * n) + 0.2 * torch.sin(2 * math.pi * (300 + 2500 * n) * n)
        + sm.hashed("wave", (16000,), 0.05))[None]
write("fbank", wave=wave, fbank=fb.fbank(wave), speechcommands=fb.model_input(wave, "speechcommands"),
      superb_head=fb.superb_input(wave)[:128], mel_bank=fb.mel_bank())

b, d, k, length = 2, 5, 16, 37
scan = dict(u=sm.hashed("scan.u", (b, d, length), 1.0), dt=torch.nn.functional.softplus(sm.hashed("scan.dt", (b, d, length), 3.0)),
            a=-torch.exp(sm.hashed_weight("A_log", (d, k))), b=sm.hashed("scan.b", (b, k, length), 1.0),
            c=sm.hashed("scan.c", (b, k, length), 1.0), d=sm.hashed_weight("D", (d,)))
write("scan", y=sm.selective_scan(**scan), **scan)

cfg = sm.Config(embed_dim=32, depth=4, input_tdim=128, fstride=10, tstride=10, label_dim=7, unused_classes=4)
model = sm.fill_hashed(sm.SsambaClassifier(cfg))
x, trace = sm.hashed("x", (2, 128, 128), 1.0), {}
logits = model(x, trace=trace)
h = sm.hashed("mixer.h", (2, 19, 32), 1.0)
write("mixer", h=h, y=model.v.layers[1].mixer(h), **{"w." + k: v for k, v in model.v.layers[1].mixer.state_dict().items()})
write("micro", x=x, logits=logits, cls_logits=model(x, "ft_cls"), **{"trace." + k: v for k, v in trace.items()}, **weights(model))

for label, kw in {"rms": dict(norm="rms"), "single": dict(pairwise=False), "sum": dict(halve=False)}.items():
    other = sm.fill_hashed(sm.SsambaClassifier(sm.Config(**{**cfg.__dict__, **kw})))
    write(f"micro_{label}", logits=other(x))

pos = sm.hashed("pos", (1, 513, 6), 1.0)
grids = {"speechcommands": (10, 128), "esc50": (10, 512), "audioset": (10, 1024), "superb": (10, 1000),
         "urban8k": (16, 6144), "longer16": (16, 2048), "same": (16, 1024)}
write("pos", pos=pos, **{k: sm.resample_pos(pos, (8, 64), sm.Config(fstride=s, tstride=s, input_tdim=t).grid)
                         for k, (s, t) in grids.items() if k != "urban8k"})

pre = sm.fill_hashed(sm.SsambaPretrain(sm.Config(embed_dim=32, depth=4, input_tdim=256, unused_classes=4)))
px = sm.hashed("px", (2, 256, 128), 1.0)
index = torch.stack([torch.arange(3, 123, 3), torch.arange(20, 60)])
acc, nce = pre.discriminative(px, index)
write("pretrain", x=px, index=index, acc=acc, nce=nce, mse=pre.generative(px, index), **weights(pre))

vit = sm.fill_hashed(st.Ssast("tiny", frames=128, stride=10, labels=35))
write("ssast_tiny", logits=vit(sm.hashed("x", (1, 128, 128), 1.0)))

if "--full" in sys.argv:
    for size, e in sm.SIZES.items():
        for label, s, t, c in (("sc", 10, 128, 35), ("as", 10, 1024, 527)):
            if size == "base" and label == "as":
                continue
            m = sm.fill_hashed(sm.SsambaClassifier(sm.Config(embed_dim=e, input_tdim=t, fstride=s, tstride=s, label_dim=c)))
            write(f"full_{size}_{label}", logits=m(sm.hashed("x", (1, t, 128), 1.0)))
