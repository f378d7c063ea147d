"""Exports three models as users of PyTorch do, with the TorchScript exporter:
an encoder, a decoder with a key-value cache, and a vision transformer.

    python3 export.py FOLDER

writes encoder.onnx, decoder.onnx and vit.onnx with data for calibration
(NAME.npz) into FOLDER. Weights are random but not all alike: layers add less
the deeper they are, as in trained models. Wants PyTorch and NumPy (Debian's
python3-torch).

Nothing in lathe knows of these models: they show that what a user brings runs.
"""

import math
import os
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Encoder(nn.Module):
    """Text classifier on PyTorch's own post-norm encoder, with padding."""

    def __init__(self, words=300, width=64, layers=6, classes=5):
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.place = nn.Embedding(64, width)
        layer = nn.TransformerEncoderLayer(width, 4, 160, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool = nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, tokens, mask):
        x = self.word(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.encoder(x, src_key_padding_mask=mask == 0)
        return self.out(torch.tanh(self.pool(x[:, 0])))


class DecoderLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, past_k, past_v, mask):
        b, t, d = x.shape
        q, k, v = (
            y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in self.qkv(self.n1(x)).chunk(3, dim=-1)
        )
        k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(d // self.heads)
        weights = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)
        a = torch.einsum("bhqk,bhkd->bhqd", weights, v).transpose(1, 2).flatten(2)
        x = x + self.proj(a)
        return x + self.down(F.silu(self.up(self.n2(x)))), k, v


class Decoder(nn.Module):
    """Language model with the cache as inputs and outputs, one pair a layer."""

    def __init__(self, words=200, width=48, heads=4, layers=5):
        super().__init__()
        self.word, self.place = nn.Embedding(words, width), nn.Embedding(128, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.heads, self.width = heads, width

    def forward(self, tokens, *past):
        t, p = tokens.shape[1], past[0].shape[2]
        at = torch.arange(p, p + t, device=tokens.device)
        x = self.word(tokens) + self.place(at)
        mask = torch.arange(p + t, device=tokens.device)[None, :] > at[:, None]
        present = []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, past[2 * i], past[2 * i + 1], mask)
            present += [k, v]
        return (self.norm(x) @ self.word.weight.t(), *present)


class ViT(nn.Module):
    """Vision transformer: patches by a convolution, class token, pre-norm."""

    def __init__(self, size=32, patch=4, width=64, layers=6, classes=10):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.place = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.2)
        layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        return self.head(self.encoder(x)[:, 0])


def settle(model, layers):
    """Lets deeper layers add less, so that some modules matter more."""
    with torch.no_grad():
        for i, layer in enumerate(layers):
            for name, w in layer.named_parameters():
                if w.dim() == 2:
                    w.mul_(2.0 * 0.7**i)
    return model.eval()


def export(model, args, path, inputs, outputs, axes, opset):
    # Parameters that want gradients keep PyTorch off its fused encoder kernel,
    # which has no ONNX form.
    torch.onnx.export(
        model, args, path, input_names=inputs, output_names=outputs, dynamic_axes=axes, opset_version=opset,
        training=torch.onnx.TrainingMode.EVAL,
    )
    print(path, os.path.getsize(path), "bytes")


def main(folder):
    os.makedirs(folder, exist_ok=True)
    at = lambda name: os.path.join(folder, name)
    torch.manual_seed(5)
    rng = np.random.default_rng(5)

    m = Encoder()
    settle(m, m.encoder.layers)
    tokens = rng.integers(1, 300, (96, 24))
    mask = (np.arange(24)[None] < rng.integers(6, 25, (96, 1))).astype(np.int64)
    np.savez(at("encoder.npz"), tokens=tokens, mask=mask)
    export(m, (torch.tensor(tokens[:2]), torch.tensor(mask[:2])), at("encoder.onnx"), ["tokens", "mask"], ["classes"],
           {"tokens": {0: "batch", 1: "time"}, "mask": {0: "batch", 1: "time"}, "classes": {0: "batch"}}, 14)

    m = Decoder()
    settle(m, m.layers)
    tokens = rng.integers(0, 200, (64, 32))
    np.savez(at("decoder.npz"), tokens=tokens)
    names = [f"{kind}_{i}" for i in range(len(m.layers)) for kind in ("k", "v")]
    past = [torch.randn(1, m.heads, 5, m.width // m.heads) for _ in names]
    axes = {"tokens": {0: "batch", 1: "time"}, "logits": {0: "batch", 1: "time"}}
    axes |= {"past_" + n: {0: "batch", 2: "past"} for n in names}
    axes |= {"present_" + n: {0: "batch", 2: "all"} for n in names}
    export(m, (torch.tensor(tokens[:1, :3]), *past), at("decoder.onnx"), ["tokens", *("past_" + n for n in names)],
           ["logits", *("present_" + n for n in names)], axes, 15)

    m = ViT()
    settle(m, m.encoder.layers)
    pixels = rng.standard_normal((48, 3, 32, 32)).astype(np.float32)
    np.savez(at("vit.npz"), pixels=pixels)
    export(m, torch.tensor(pixels[:2]), at("vit.onnx"), ["pixels"], ["classes"],
           {"pixels": {0: "batch"}, "classes": {0: "batch"}}, 16)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
