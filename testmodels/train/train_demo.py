"""Trains the embedded model and exports it as ONNX; see README.md beside it.

    go run ./testmodels/gen -n 60000 -seed 1 -o train.npz
    go run ./testmodels/gen -n 2000 -seed 3 -o eval.npz
    python3 testmodels/train/train_demo.py --train train.npz --eval eval.npz \
        -o testmodels/data/demo.onnx
"""

import argparse
import math
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy and PyTorch load

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention: x [B, T, D] -> [B, T, D]."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x):  # [B, T, D] -> [B, H, T, D/H]
        return x.view(x.size(0), x.size(1), self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        p = (q @ k.transpose(-1, -2) / math.sqrt(self.size)).softmax(-1)
        y = (p @ v).permute(0, 2, 1, 3).contiguous()
        return self.out(y.view(y.size(0), y.size(1), self.heads * self.size))


class MLP(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Layer(nn.Module):
    """A pre-LN layer. In training each branch of a sample is left out with
    probability drop (stochastic depth), so that none is indispensable."""

    def __init__(self, width, heads, hidden, drop):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP(width, hidden)
        self.drop = drop

    def keep(self, y):
        if not self.training or self.drop == 0:
            return y
        on = (torch.rand(y.size(0), 1, 1) >= self.drop).float()
        return y * on / (1 - self.drop)

    def forward(self, x):
        x = x + self.keep(self.attention(self.norm1(x)))
        return x + self.keep(self.mlp(self.norm2(x)))


class Demo(nn.Module):
    """features [B, T, F] -> logits [B, classes]."""

    def __init__(self, frames=40, features=8, classes=12, width=64, heads=4, hidden=128, layers=8, drop=0.0):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, frames, width))
        self.layers = nn.ModuleList(
            Layer(width, heads, hidden, drop * (i + 1) / layers) for i in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, features):
        x = self.embed(features) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def load(path):
    data = np.load(path)
    return torch.from_numpy(data["features"]), torch.from_numpy(data["labels"])


@torch.no_grad()
def accuracy(model, features, labels):
    model.eval()
    hits = sum((model(f).argmax(-1) == y).sum().item() for f, y in zip(features.split(256), labels.split(256)))
    return hits / len(labels)


def train(model, features, labels, steps, batch, rate, check):
    decay = [p for p in model.parameters() if p.dim() > 1 and p is not model.position]
    rest = [p for p in model.parameters() if p.dim() <= 1 or p is model.position]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, rate, total_steps=steps, pct_start=0.1)
    start, order = time.time(), torch.empty(0, dtype=torch.long)
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = torch.randperm(len(labels))
        pick, order = order[:batch], order[batch:]
        model.train()
        loss = F.cross_entropy(model(features[pick]), labels[pick])
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step:5d}  loss {loss.item():.4f}  held-out accuracy {check():.4f}  {time.time() - start:.0f} s", flush=True)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--train", required=True)
    args.add_argument("--eval", required=True)
    args.add_argument("-o", required=True)
    args.add_argument("--steps", type=int, default=3000)
    args.add_argument("--batch", type=int, default=96)
    args.add_argument("--rate", type=float, default=1.5e-3)
    args.add_argument("--drop", type=float, default=0.1)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model = Demo(drop=args.drop)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    held = load(args.eval)
    train(model, *load(args.train), args.steps, args.batch, args.rate, lambda: accuracy(model, *held))
    torch.onnx.export(
        model.eval(), torch.zeros(2, 40, 8), args.o, opset_version=17, do_constant_folding=True,
        input_names=["features"], output_names=["logits"],
        dynamic_axes={"features": {0: "batch"}, "logits": {0: "batch"}})


if __name__ == "__main__":
    main()
