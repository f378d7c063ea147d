#!/usr/bin/env python3
"""Makes the goldens of ../../train_test.go with PyTorch (1.13 did).

Each .npz holds a batch, its labels, the parameters where the model is not an
.onnx file beside it, and under grad/NAME the gradients of the mean cross-entropy
by PyTorch's autograd, in float64.
"""
import math
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))


class Block(nn.Module):
    def __init__(self, d, heads, hidden):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(d, d, bias=b) for b in (True, False, True))
        self.o = nn.Linear(d, d)
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def forward(self, x):
        b, t, d = x.shape
        cut = lambda y: y.view(b, t, self.heads, d // self.heads).transpose(1, 2)
        q, k, v = cut(self.q(x)), cut(self.k(x)), cut(self.v(x))
        a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(d // self.heads), -1)
        x = self.ln1(x + self.o((a @ v).transpose(1, 2).reshape(b, t, d)))
        return self.ln2(x + self.fc2(F.gelu(self.fc1(x))))


class Transformer(nn.Module):
    """KWT in small: projection, class token, post-LN blocks, head."""

    def __init__(self, n=5, d=8, classes=4):
        super().__init__()
        self.proj = nn.Linear(6, d)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, n + 1, d))
        self.blocks = nn.ModuleList(Block(d, 2, 12) for _ in range(2))
        self.head = nn.Linear(d, classes)

    def forward(self, x):
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), self.proj(x)], 1) + self.pos
        for b in self.blocks:
            x = b(x)
        return self.head(x[:, 0])


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.bn = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c2 = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.fc = nn.Linear(6, 3)
        self.bn.running_mean.uniform_(-1, 1)
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.c1(x))), 2)
        x = F.relu(self.c2(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def export(name, model, shape, classes):
    model.eval()
    for p in model.parameters():  # equal ones would be exported as one
        nn.init.normal_(p, 0.5 if p.dim() == 1 else 0, 0.5)
    x = torch.randn(*shape)
    labels = torch.randint(classes, (shape[0],))
    # Folding and fusing would give parameters other names.
    torch.onnx.export(model, x, os.path.join(HERE, name + ".onnx"), input_names=["x"], output_names=["y"], opset_version=17,
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                      dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
    wide = model.double()
    loss = F.cross_entropy(wide(x.double()), labels)
    loss.backward()
    out = {"grad/" + n: p.grad.numpy() for n, p in wide.named_parameters()}
    np.savez(os.path.join(HERE, name + ".npz"), x=x.numpy(), labels=labels.numpy(), loss=loss.detach().numpy(), **out)


def circulant(x, w, b, m):
    """y_i = IFFT(sum_j FFT(w_ij) * FFT(x_j)), w [p, q, b]."""
    p, q, s = w.shape
    x = F.pad(x, (0, q * s - x.shape[-1])).view(*x.shape[:-1], 1, q, s)
    y = torch.fft.irfft((torch.fft.rfft(w) * torch.fft.rfft(x)).sum(-2), n=s)
    return y.reshape(*y.shape[:-2], p * s)[..., :m] + b


def circulant_mlp():
    shapes = {"w1": (4, 2, 8), "b1": (30,), "w2": (2, 8, 4), "b2": (7,)}  # 14 -> 30 -> 7, blocks of 8 and 4
    params = {n: torch.randn(*s) * 0.5 for n, s in shapes.items()}
    x, labels = torch.randn(37, 14), torch.randint(7, (37,))
    wide = {n: p.double().requires_grad_() for n, p in params.items()}
    h = torch.tanh(circulant(x.double(), wide["w1"], wide["b1"], 30))
    loss = F.cross_entropy(circulant(h, wide["w2"], wide["b2"], 7), labels)
    loss.backward()
    np.savez(os.path.join(HERE, "circulant.npz"), x=x.numpy(), labels=labels.numpy(), loss=loss.detach().numpy(),
             **{n: p.numpy() for n, p in params.items()}, **{"grad/" + n: p.grad.numpy() for n, p in wide.items()})


torch.manual_seed(0)
export("transformer", Transformer(), (3, 5, 6), 4)
export("cnn", CNN(), (3, 2, 9, 9), 3)
circulant_mlp()
