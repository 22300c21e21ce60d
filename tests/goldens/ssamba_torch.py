"""Pure-PyTorch (CPU) reference of SSAMBA, written from the published description of the network.

No mamba_ssm, causal_conv1d, timm or einops.  Parameter names equal those of the
published checkpoints after removing the leading "module.".  Meant for golden
vectors, not for speed: the scan is a plain loop over time.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {"tiny": 192, "small": 384, "base": 768}


@dataclass(frozen=True)
class Config:
    embed_dim: int = 192
    depth: int = 24
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    patch: int = 16
    fstride: int = 16
    tstride: int = 16
    input_fdim: int = 128
    input_tdim: int = 1024
    label_dim: int = 527
    norm: str = "layer"        # "layer" in all run_amba.py recipes, "rms" in the SUPERB expert
    pairwise: bool = True      # the option called if_bidirectional
    halve: bool = True         # the option called if_devide_out / if_divide_out
    eps: float = 1e-5
    unused_classes: int = 1000  # width of the never-called VisionMamba head

    @property
    def d_inner(self):
        return self.expand * self.embed_dim

    @property
    def dt_rank(self):
        return math.ceil(self.embed_dim / 16)

    @property
    def grid(self):
        return ((self.input_fdim - self.patch) // self.fstride + 1,
                (self.input_tdim - self.patch) // self.tstride + 1)

    @property
    def tokens(self):
        f, t = self.grid
        return f * t


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def make_norm(cfg):
    return nn.LayerNorm(cfg.embed_dim, eps=cfg.eps) if cfg.norm == "layer" else RMSNorm(cfg.embed_dim, cfg.eps)


def selective_scan(u, dt, a, b, c, d):
    """u, dt: (B, D, L); a: (D, N); b, c: (B, N, L); d: (D). Returns (B, D, L)."""
    state = u.new_zeros(u.shape[0], u.shape[1], a.shape[1])
    out = []
    for i in range(u.shape[2]):
        step = dt[:, :, i, None]
        state = torch.exp(step * a) * state + step * b[:, None, :, i] * u[:, :, i, None]
        out.append((state * c[:, None, :, i]).sum(-1))
    return torch.stack(out, dim=2) + d[:, None] * u


class MixerV2(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        e, di, r, n = cfg.embed_dim, cfg.d_inner, cfg.dt_rank, cfg.d_state
        self.cfg = cfg
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, n + 1)).repeat(di, 1))
        self.D = nn.Parameter(torch.ones(di))
        self.A_b_log = nn.Parameter(self.A_log.detach().clone())
        self.D_b = nn.Parameter(torch.ones(di))
        self.in_proj = nn.Linear(e, 2 * di, bias=False)
        self.conv1d = nn.Conv1d(di, di, cfg.d_conv, groups=di, padding=cfg.d_conv - 1)
        self.x_proj = nn.Linear(di, r + 2 * n, bias=False)
        self.dt_proj = nn.Linear(r, di)
        self.conv1d_b = nn.Conv1d(di, di, cfg.d_conv, groups=di, padding=cfg.d_conv - 1)
        self.x_proj_b = nn.Linear(di, r + 2 * n, bias=False)
        self.dt_proj_b = nn.Linear(r, di)
        self.out_proj = nn.Linear(di, e, bias=False)

    def branch(self, x, z, conv, x_proj, dt_proj, a_log, d):
        n, r, length = self.cfg.d_state, self.cfg.dt_rank, x.shape[-1]
        u = F.silu(conv(x)[..., :length])                      # causal: keep the first L outputs
        dbc = x_proj(u.transpose(1, 2))                        # (B, L, R + 2N)
        dt, b, c = dbc.split([r, n, n], dim=-1)
        dt = F.softplus(F.linear(dt, dt_proj.weight) + dt_proj.bias).transpose(1, 2)
        y = selective_scan(u, dt, -torch.exp(a_log.float()), b.transpose(1, 2), c.transpose(1, 2), d)
        return y * F.silu(z)

    def forward(self, h):
        x, z = self.in_proj(h).transpose(1, 2).chunk(2, dim=1)
        y = self.branch(x, z, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        yb = self.branch(x.flip(-1), z.flip(-1), self.conv1d_b, self.x_proj_b, self.dt_proj_b,
                         self.A_b_log, self.D_b)
        y = y + yb.flip(-1)
        if self.cfg.halve:
            y = y / 2
        return self.out_proj(y.transpose(1, 2))


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.mixer = MixerV2(cfg)
        self.norm = make_norm(cfg)

    def forward(self, hidden, residual):
        residual = hidden if residual is None else residual + hidden
        return self.mixer(self.norm(residual)), residual


class PatchEmbed(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.proj = nn.Conv2d(1, cfg.embed_dim, cfg.patch, stride=(cfg.fstride, cfg.tstride))

    def forward(self, x):                                     # (B, 1, F, T)
        return self.proj(x).flatten(2).transpose(1, 2)        # token = f * T' + t


class Encoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, cfg.tokens + 1, cfg.embed_dim))
        self.patch_embed = PatchEmbed(cfg)
        self.head = nn.Linear(cfg.embed_dim, cfg.unused_classes)  # in the checkpoint, never called
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        self.norm_f = make_norm(cfg)

    def embed(self, x):
        """x: (B, T, F) spectrogram -> (B, P, E) patch tokens without positions."""
        return self.patch_embed(x.unsqueeze(1).transpose(2, 3))

    def encode(self, tokens, trace=None, final_norms=2):
        x = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed
        hidden, residual = x, None
        if trace is not None:
            trace["tokens"] = x
        if self.cfg.pairwise:
            for i in range(self.cfg.depth // 2):
                back = None if residual is None else residual.flip(1)
                hf, rf = self.layers[2 * i](hidden, residual)
                hb, rb = self.layers[2 * i + 1](hidden.flip(1), back)
                hidden, residual = hf + hb.flip(1), rf + rb.flip(1)
                if trace is not None:
                    trace[f"pair{i}.hidden"], trace[f"pair{i}.residual"] = hidden, residual
        else:
            for i, layer in enumerate(self.layers):
                hidden, residual = layer(hidden, residual)
                if trace is not None:
                    trace[f"layer{i}.hidden"], trace[f"layer{i}.residual"] = hidden, residual
        x = hidden if residual is None else residual + hidden
        for _ in range(final_norms):                           # the official code normalises twice
            x = self.norm_f(x)
        if trace is not None:
            trace["encoded"] = x
        return x


class SsambaClassifier(nn.Module):
    """Fine-tuned model; keys v.* and mlp_head.*"""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.v = Encoder(cfg)
        self.mlp_head = nn.Sequential(nn.LayerNorm(cfg.embed_dim), nn.Linear(cfg.embed_dim, cfg.label_dim))

    def forward(self, x, task="ft_avgtok", trace=None):
        x = self.v.encode(self.v.embed(x), trace)
        if task == "ft_avgtok":
            return self.mlp_head(x[:, 1:].mean(1))
        if task == "ft_cls":
            return self.mlp_head(x[:, 0])
        if task == "ft_avgtok_1sec":                           # slices the cls token and freq-major order
            k = x.shape[1] // 60
            x = torch.stack([x[:, i * k:(i + 1) * k].mean(1) for i in range(60)], dim=1)
            return self.mlp_head(x)
        raise ValueError(task)


class SsambaPretrain(nn.Module):
    """Pretraining model; keys v.*, cpredlayer.*, gpredlayer.*, mask_embed, p_input_*"""

    def __init__(self, cfg):
        super().__init__()
        e = cfg.embed_dim
        self.cfg = cfg
        self.p_input_fdim = nn.Parameter(torch.tensor(cfg.input_fdim), requires_grad=False)
        self.p_input_tdim = nn.Parameter(torch.tensor(cfg.input_tdim), requires_grad=False)
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, e))
        self.v = Encoder(cfg)
        self.cpredlayer = nn.Sequential(nn.Linear(e, e), nn.ReLU(), nn.Linear(e, 256))
        self.gpredlayer = nn.Sequential(nn.Linear(e, e), nn.ReLU(), nn.Linear(e, 256))

    def masked(self, x, index):
        """x (B, T, F), index (B, M) long -> encoded masked tokens (B, M, E), target patches (B, M, 256)."""
        patches = F.unfold(x.unsqueeze(1).transpose(2, 3), self.cfg.patch, stride=self.cfg.patch).transpose(1, 2)
        tokens = self.v.embed(x)
        hit = torch.zeros(tokens.shape[:2], dtype=torch.bool).scatter_(1, index, True)
        tokens = torch.where(hit[..., None], self.mask_embed.expand_as(tokens), tokens)
        enc = self.v.encode(tokens)
        rows = torch.arange(x.shape[0])[:, None]
        return enc[rows, index + 1], patches[rows, index].detach()

    def discriminative(self, x, index):
        enc, target = self.masked(x, index)
        logits = target @ self.cpredlayer(enc).transpose(1, 2)  # rows = true patch, columns = prediction
        m = index.shape[1]
        nce = -torch.diagonal(F.log_softmax(logits, -1), dim1=1, dim2=2).mean()
        acc = (F.softmax(logits, -1).argmax(1) == torch.arange(m)).float().mean()
        return acc, nce

    def generative(self, x, index):
        enc, target = self.masked(x, index)
        return F.mse_loss(self.gpredlayer(enc), target)


def resample_pos(pos, old_grid, new_grid):
    """pos (1, 1 + pf*pt, E) -> (1, 1 + f*t, E), as done once when a pretrained file is loaded."""
    (pf, pt), (f, t) = old_grid, new_grid
    e = pos.shape[-1]
    grid = pos[:, 1:].reshape(1, pf * pt, e).transpose(1, 2).reshape(1, e, pf, pt)
    if t < pt:
        s = pt // 2 - t // 2
        grid = grid[..., s:s + t]
    else:
        grid = F.interpolate(grid, size=(8, t), mode="bilinear")   # the constant 8 is in the original
    if f < pf:
        s = pf // 2 - f // 2
        grid = grid[:, :, s:s + t]                                  # the end uses t, not f, in the original
    else:
        grid = F.interpolate(grid, size=(f, t), mode="bilinear")
    return torch.cat([pos[:, :1], grid.reshape(1, e, f * t).transpose(1, 2)], dim=1)


def classifier_from_pretrained(sd, cfg):
    """sd: state dict of a pretraining checkpoint, with or without the 'module.' prefix."""
    sd = {k.removeprefix("module."): v for k, v in sd.items()}
    old = replace(cfg, fstride=cfg.patch, tstride=cfg.patch,
                  input_fdim=int(sd["p_input_fdim"]), input_tdim=int(sd["p_input_tdim"]))
    model = SsambaClassifier(cfg)
    v = {k: t for k, t in sd.items() if k.startswith("v.")}
    v["v.pos_embed"] = resample_pos(v["v.pos_embed"], old.grid, cfg.grid)
    missing, unexpected = model.load_state_dict(v, strict=False)
    if unexpected or any(not m.startswith("mlp_head.") for m in missing):
        raise ValueError(f"missing {missing} unexpected {unexpected}")
    return model


# ---- deterministic weights that another language can rebuild -----------------

MASK = (1 << 64) - 1


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def hashed(name, shape, scale):
    """scale * u, u uniform in [-1, 1): splitmix64 stream seeded by FNV-1a of the name, row-major."""
    import numpy as np

    n = int(math.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0   # exact in f32
    return torch.from_numpy((u * scale).astype(np.float32)).reshape(shape)


def hashed_weight(name, shape):
    """Name-based rule used by every golden file."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("A_log", "A_b_log"):
        return torch.log(torch.arange(1.0, shape[1] + 1)).repeat(shape[0], 1) + hashed(name, shape, 0.125)
    if leaf in ("D", "D_b"):
        return 1.0 + hashed(name, shape, 0.25)
    if name.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        return -4.0 + hashed(name, shape, 2.0)
    if ("norm" in name or name.startswith("mlp_head.0.")) and leaf == "weight":
        return 1.0 + hashed(name, shape, 0.25)
    if leaf == "bias" or name.endswith(("pos_embed", "cls_token", "mask_embed")):
        return hashed(name, shape, 0.125)
    fan_in = int(math.prod(shape[1:]))
    return hashed(name, shape, 2.0 ** -round(0.5 * math.log2(fan_in)))


def fill_hashed(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dtype.is_floating_point:
                p.copy_(hashed_weight(name, tuple(p.shape)))
    return model.eval()
