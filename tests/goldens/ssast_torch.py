"""Plain PyTorch reference of SSAST, the distilled vision transformer over spectrogram patches; no timm.

Parameter names equal those of the published checkpoints after removing the leading "module.".
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH_HEADS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


class Attention(nn.Module):
    def __init__(self, e, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(e, 3 * e)
        self.proj = nn.Linear(e, e)

    def forward(self, x):
        b, n, e = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        w = (q @ k.transpose(-2, -1) * (e // self.heads) ** -0.5).softmax(-1)
        return self.proj((w @ v).transpose(1, 2).reshape(b, n, e))


class Mlp(nn.Module):
    def __init__(self, e):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(e, 4 * e), nn.Linear(4 * e, e)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))             # exact (erf) GELU


class Layer(nn.Module):
    def __init__(self, e, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(e, eps=1e-6), Attention(e, heads)
        self.norm2, self.mlp = nn.LayerNorm(e, eps=1e-6), Mlp(e)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self, e, heads, tokens, stride, depth=12):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, e))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, e))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 2, e))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, e, 16, stride=stride)
        self.blocks = nn.ModuleList(Layer(e, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(e, eps=1e-6)
        self.head, self.head_dist = nn.Linear(e, 1000), nn.Linear(e, 1000)   # unused


class Ssast(nn.Module):
    def __init__(self, size="tiny", frames=1024, stride=10, labels=527, bins=128):
        super().__init__()
        e, heads = WIDTH_HEADS[size]
        tokens = ((bins - 16) // stride + 1) * ((frames - 16) // stride + 1)
        self.v = Vit(e, heads, tokens, stride)
        self.mlp_head = nn.Sequential(nn.LayerNorm(e), nn.Linear(e, labels))

    def forward(self, x, task="ft_avgtok"):
        v, b = self.v, x.shape[0]
        t = v.patch_embed.proj(x.unsqueeze(1).transpose(2, 3)).flatten(2).transpose(1, 2)
        t = torch.cat([v.cls_token.expand(b, -1, -1), v.dist_token.expand(b, -1, -1), t], 1) + v.pos_embed
        for layer in v.blocks:
            t = layer(t)
        t = v.norm(t)
        return self.mlp_head(t[:, 2:].mean(1) if task == "ft_avgtok" else (t[:, 0] + t[:, 1]) / 2)
