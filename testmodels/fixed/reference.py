#!/usr/bin/env python3
"""Reference implementation of the int16 operators of domain lathe.

Plain Python integers, straight from the specification in the documentation of
package runtime/fixed, as slow and as plain as can be. It writes the goldens
that every implementation is held to, one case a line:

    python3 testmodels/fixed/reference.py > testmodels/fixed/golden.jsonl
"""
import itertools
import json
import math
import random
import struct
import sys
from fractions import Fraction

LOW, HIGH = -(1 << 15), (1 << 15) - 1


def rnd(v, s):  # round: half up
    return v << -s if s <= 0 else (v + (1 << (s - 1))) >> s


def clamp(v, low, high):
    return min(max(v, low), high)


def sat(v):
    return clamp(v, LOW, HIGH)


def near(v, s):  # to the nearest, ties to even
    q, r = v >> s, v & ((1 << s) - 1)
    half = 1 << (s - 1)
    return q + (1 if r > half or (r == half and q & 1) else 0)


def mac(a, x, w, u=0):
    return near((a << 15) + x * w, 15 + u) << u


def v24(v):  # to 24 significant bits, ties to even
    s = max(abs(v).bit_length() - 24, 0)
    return near(v, s) << s if s else v


def rnd24(v, s):  # round of a sum of 24 significant bits
    return v << -s if s <= 0 else v24(v + (1 << (s - 1))) >> s


def f32(x):  # a double rounded to float32
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


# ---- conversions


def quantize(x, e):
    if x != x:
        return 0
    t = f32(f32(x * 2.0 ** -e) + 0.5)
    if math.isinf(t):
        return HIGH if t > 0 else LOW
    return sat(math.floor(t))


def dequantize(q, e):
    return f32(q * 2.0**e)


# ---- transforms; a spectrum is bin 0, bin N/2, then real and imaginary parts


def twiddle(f, n):
    # cos and sin of 2*pi*f/n to far more than 15 bits, by doubles
    c, s = math.cos(2 * math.pi * f / n), math.sin(2 * math.pi * f / n)
    return near(round(c * (1 << 30)), 15), near(round(s * (1 << 30)), 15)


def unpack(X):
    """bins 0 … N/2 as complex pairs"""
    n = len(X)
    bins = [(X[0], 0)] + [(X[2 * f], X[2 * f + 1]) for f in range(1, n // 2)]
    return bins + [(X[1], 0)]


def pack(bins):
    out = [bins[0][0], bins[-1][0]]
    for re, im in bins[1:-1]:
        out += [re, im]
    return out


class Once:
    """The transforms without scaling."""

    @staticmethod
    def half(v):
        return v24(v)

    double = 2

    @staticmethod
    def turn_back(o, c, s, u):  # times exp(-i t)
        re, im = o
        return mac(mac(0, im, s, u), re, c, u), mac(mac(0, re, -s, u), im, c, u)

    @staticmethod
    def turn(d, c, s, u):  # times exp(i t), to multiples of 2**u
        re, im = d
        return mac(mac(0, im, -s, u), re, c, u), mac(mac(0, re, s, u), im, c, u)


class CirCNN:
    """The transforms of hardware that halves at every stage."""

    @staticmethod
    def half(v):
        return sat(rnd(v, 1))

    double = 1

    @staticmethod
    def turn_back(o, c, s, u):
        re, im = o
        return sat(rnd(re * c + im * s, 15)), sat(rnd(im * c - re * s, 15))

    @staticmethod
    def turn(d, c, s, u):
        re, im = d
        return sat(rnd(re * c - im * s, 15)), sat(rnd(im * c + re * s, 15))


def forward(x, mode, block=None):
    n, h, half = len(x), len(x) // 2, mode.half
    block = block or n
    u = {block: 2, block // 2: 1}.get(n, 0) if mode is Once and block >= 64 else 0
    if n == 2:
        return [half(x[0] + x[1]), half(x[0] - x[1])]
    E, O = forward(x[0::2], mode, block), forward(x[1::2], mode, block)
    E, O = unpack(E), unpack(O)
    X = [None] * (h + 1)
    X[0] = (half(E[0][0] + O[0][0]), 0)
    X[h] = (half(E[0][0] - O[0][0]), 0)
    X[h // 2] = (half(E[h // 2][0]), half(-O[h // 2][0]))
    for f in range(1, h // 2):
        c, s = twiddle(f, n)
        pr, pi = mode.turn_back(O[f], c, s, u)
        er, ei = E[f]
        X[f] = (half(er + pr), half(ei + pi))
        X[h - f] = (half(er - pr), half(-(ei - pi)))
    return pack(X)


def inverse(spectrum, mode, block=None):
    n, h, half = len(spectrum), len(spectrum) // 2, mode.half
    block = block or n
    u = {16: 1, 8: 2}.get(n, 0) if mode is Once and block >= 64 else 0
    X = unpack(spectrum) if n > 2 else None
    if n == 2:
        return [half(spectrum[0] + spectrum[1]), half(spectrum[0] - spectrum[1])]
    E, O = [None] * (h // 2 + 1), [None] * (h // 2 + 1)
    E[0] = (half(X[0][0] + X[h][0]), 0)
    O[0] = (half(X[0][0] - X[h][0]), 0)
    E[h // 2] = (mode.double * X[h // 2][0], 0)
    O[h // 2] = (sat(-X[h // 2][1]) if mode is CirCNN else -2 * X[h // 2][1], 0)
    for f in range(1, h // 2):
        c, s = twiddle(f, n)
        (ar, ai), (br, bi) = X[f], X[h - f]
        E[f] = (half(ar + br), half(ai - bi))
        O[f] = mode.turn((half(ar - br), half(ai + bi)), c, s, u)
    E, O = pack(E), pack(O)
    out = [None] * n
    out[0::2], out[1::2] = inverse(E, mode, block), inverse(O, mode, block)
    return out


def product(w, x):
    out = [w[0] * x[0], w[1] * x[1]]
    for k in range(2, len(w), 2):
        out += [w[k] * x[k] - w[k + 1] * x[k + 1], w[k] * x[k + 1] + w[k + 1] * x[k]]
    return out


# ---- tensors: (dims, flat list)


def strides(dims):
    out, n = [], 1
    for d in reversed(dims):
        out.insert(0, n)
        n *= d
    return out


def size(dims):
    return math.prod(dims)


def indices(dims):
    return itertools.product(*[range(d) for d in dims])


def matmul(x, w, s, b):
    (xd, xs), (wd, ws) = x, w
    m, n = wd
    out = []
    for t in range(size(xd[:-1])):
        for r in range(m):
            acc = sum(ws[r * n + k] * xs[t * n + k] for k in range(n)) + b[r]
            out.append(sat(rnd(acc, s[r])))
    return xd[:-1] + [m], out


def window_dims(din, kernel, strides_, dil, pads, ceil=False):
    out = []
    n = len(din)
    for i, d in enumerate(din):
        room = d + pads[i] + pads[n + i] - (kernel[i] - 1) * dil[i] - 1
        o = room // strides_[i] + 1
        if ceil and room % strides_[i] and o * strides_[i] < d + pads[i]:
            o += 1
        out.append(o)
    return out


def conv(x, w, s, b, group, st, dil, pads):
    (xd, xs), (wd, ws) = x, w
    n, c = xd[:2]
    m, cg, kernel = wd[0], wd[1], wd[2:]
    od = window_dims(xd[2:], kernel, st, dil, pads)
    xst, wst = strides(xd), strides(wd)
    out = []
    for i in range(n):
        for r in range(m):
            first = r // (m // group) * cg
            for o in indices(od):
                acc = b[r]
                for ch in range(cg):
                    for k in indices(kernel):
                        at = [o[a] * st[a] - pads[a] + k[a] * dil[a] for a in range(len(od))]
                        if all(0 <= p < d for p, d in zip(at, xd[2:])):
                            xi = sum(p * q for p, q in zip([i, first + ch] + at, xst))
                            wi = sum(p * q for p, q in zip([r, ch] + list(k), wst))
                            acc += ws[wi] * xs[xi]
                out.append(sat(rnd(acc, s[r])))
    return [n, m] + od, out


def pool(x, kernel, st, pads, ceil, reduce):
    xd, xs = x
    od = window_dims(xd[2:], kernel, st, [1] * len(kernel), pads, ceil)
    xst = strides(xd)
    out = []
    for i in indices(xd[:2]):
        for o in indices(od):
            inside, padded = [], 0
            for k in indices(kernel):
                at = [o[a] * st[a] - pads[a] + k[a] for a in range(len(od))]
                if all(0 <= p < d for p, d in zip(at, xd[2:])):
                    inside.append(xs[sum(p * q for p, q in zip(list(i) + at, xst))])
                nd = len(od)
                if all(-pads[a] <= at[a] < xd[2 + a] + pads[nd + a] for a in range(nd)):
                    padded += 1
            out.append(reduce(inside, padded))
    return xd[:2] + od, out


def mean(total, count, left):
    return sat(math.floor(Fraction(total << left, count) + Fraction(1, 2)))


def bin_of(k):  # of number k of a spectrum, in the order 0, b/2, 1, 2, ...
    return k if k < 2 else k // 2 + 1


def circulant(x, w, s, b, r, e, sums, mode):
    (xd, xs), (wd, ws) = x, w
    p, q, n = wd
    log = n.bit_length() - 1
    limit = 1 << (25 - log if n >= 64 else 23 - log)
    group, shift = sums
    row, bins, m = xd[-1], n // 2 + 1, len(e)
    # no sum may overflow 32 bits, whatever the input is
    for i in range(p):
        for k in range(n):
            total = abs(b[i * n + k]) + (1 << s[i * bins + bin_of(k)] >> 1)
            for first in range(0, q, group):
                part = 1 << shift >> 1
                for j in range(first, min(first + group, q)):
                    at = (i * q + j) * n
                    part += HIGH * (abs(ws[at + k]) + (abs(ws[at + (k ^ 1)]) if k >= 2 else 0))
                assert part < 1 << 31
                total += (part >> shift) + 1
            assert total < 1 << 31
    out = []
    for t in range(size(xd[:-1])):
        v = xs[t * row : (t + 1) * row] + [0] * (q * n - row)
        hats = []
        for j in range(q):
            block = v[j * n : (j + 1) * n]
            if mode is CirCNN:
                hats.append([max(a, -HIGH) for a in forward(block, mode)])
            else:
                g = 10 - log if n >= 64 else 8 - log
                hats.append([clamp(rnd24(a, g + r[j * bins + bin_of(k)]), -HIGH, HIGH) for k, a in enumerate(forward([a << g for a in block], mode))])
        y = []
        for i in range(p):
            acc = list(b[i * n : (i + 1) * n])
            for first in range(0, q, group):
                part = [0] * n
                for j in range(first, min(first + group, q)):
                    part = [a + c for a, c in zip(part, product(ws[(i * q + j) * n : (i * q + j + 1) * n], hats[j]))]
                acc = [a + rnd(c, shift) for a, c in zip(acc, part)]
            acc = [rnd(a, s[i * bins + bin_of(k)]) for k, a in enumerate(acc)]
            if mode is CirCNN:
                y += inverse([sat(a) for a in acc], mode)
            else:
                back = inverse([clamp(a, -limit, limit) for a in acc], mode)
                y += [sat((rnd if mode is CirCNN else rnd24)(a, e[i * n + c])) for c, a in enumerate(back) if i * n + c < m]
        out += y[:m]
    return xd[:-1] + [m], out


def circulant_conv(x, w, s, b, r, e, sums, groups, st, dil, pads, mode):
    """Each group by itself: the product at every output, with the columns of its window."""
    (xd, xs), (wd, ws) = x, w
    if groups > 1:
        per = xd[1] // groups
        pixels = size(xd[2:])
        part = lambda v, g: v[g * len(v) // groups : (g + 1) * len(v) // groups]
        results = []
        for g in range(groups):
            xg = [v for i in range(xd[0]) for v in part(xs[i * xd[1] * pixels : (i + 1) * xd[1] * pixels], g)]
            results.append(circulant_conv(([xd[0], per] + xd[2:], xg), ([wd[0] // groups] + wd[1:], part(ws, g)), part(s, g), part(b, g), part(r, g), part(e, g), sums, 1, st, dil, pads, mode))
        d = results[0][0]
        own = size(d[1:])
        return [d[0], d[1] * groups] + d[2:], [v for i in range(d[0]) for _, y in results for v in y[i * own : (i + 1) * own]]
    p, q, n = wd[:3]
    kernel = wd[3:]
    taps = list(indices(kernel))
    od = window_dims(xd[2:], kernel, st, dil, pads)
    xst, wst = strides(xd), strides(wd)
    columns = []
    for i in range(xd[0]):
        for o in indices(od):
            for k in taps:
                at = [o[a] * st[a] - pads[a] + k[a] * dil[a] for a in range(len(od))]
                inside = all(0 <= v < d for v, d in zip(at, xd[2:]))
                for ch in range(q * n):
                    columns.append(xs[sum(v * u for v, u in zip([i, ch] + at, xst))] if inside and ch < xd[1] else 0)
    rows = [ws[sum(v * u for v, u in zip([i, j, c] + list(k), wst))] for i in range(p) for k in taps for j in range(q) for c in range(n)]
    d, y = circulant(([xd[0] * size(od), len(taps) * q * n], columns), ([p, len(taps) * q, n], rows), s, b, r * len(taps), e, sums, mode)
    m = len(e)
    return [xd[0], m] + od, [y[(i * size(od) + o) * m + c] for i in range(xd[0]) for c in range(m) for o in range(size(od))]


# ---- cases

rng = random.Random(5)


def ints(n, low=LOW, high=HIGH):
    """Mostly of the size of real activations, with extremes."""
    out = []
    for _ in range(n):
        kind = rng.random()
        if kind < 0.1:
            out.append(rng.choice([low, high, 0, -1, 1]))
        elif kind < 0.5:
            out.append(rng.randint(low, high))
        else:
            out.append(clamp(int(rng.gauss(0, (high - low) / 12)), low, high))
    return out


def weights(n):
    return ints(n, -HIGH, HIGH)


def case(name, op, attributes, inputs, output):
    """inputs and output: (type, dims, data)"""
    assert len(output[2]) == size(output[1]), name
    print(json.dumps({"name": name, "op": op, "attributes": attributes, "inputs": inputs, "output": output}, separators=(",", ":")))


def t16(dims, data):
    return ["int16", dims, data]


def t32(data, dims=None):
    return ["int32", dims or [len(data)], data]


def t8(dims, data):
    return ["int8", dims, data]


def t64(dims, data):
    return ["int64", dims, data]


def bits(x):
    return struct.unpack("<i", struct.pack("<f", x))[0]


def main():
    for e in (-12, 0, 3):
        xs = [f32(v * 2.0**e) for v in (0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 0.49999997, 32766.5, 32767.4, -32768.5, -32769.0, 1e9, -1e9, 1e-40)]
        xs += [f32(rng.gauss(0, 9000) * 2.0**e) for _ in range(20)] + [math.inf, -math.inf, math.nan]
        case(f"quantize {e}", "QuantizeInt16", {}, [["float_bits", [len(xs)], [bits(x) for x in xs]], t32([e])], t16([len(xs)], [quantize(x, e) for x in xs]))
        qs = [LOW, HIGH, 0, 1, -1] + ints(10)
        case(f"dequantize {e}", "DequantizeInt16", {}, [t16([len(qs)], qs), t32([e])], ["float_bits", [len(qs)], [bits(dequantize(q, e)) for q in qs]])
    qs, es = ints(21), [-3, 0, 5, -20, 2, 1, -1]
    case("dequantize channels", "DequantizeInt16", {}, [t16([3, 7], qs), t8([7], es)], ["float_bits", [3, 7], [bits(dequantize(q, es[k % 7])) for k, q in enumerate(qs)]])
    for s in (-16, -3, 0, 1, 7, 15, 16, 31):
        xs = [LOW, HIGH, 0, 1, -1, 64, -64, 63, -65] + ints(24)
        case(f"requantize {s}", "RequantizeInt16", {}, [t16([3, 11], xs), t32([s])], t16([3, 11], [sat(rnd(x, s)) for x in xs]))

    def dense(name, dims, m, xs, ws, s, b):
        n = dims[-1]
        d, out = matmul((dims, xs), ([m, n], ws), s, b)
        case(name, "MatMulInt16", {}, [t16(dims, xs), t16([m, n], ws), t32(s), t64([m], b)], t16(d, out))

    for dims, m in (([1, 1], 1), ([5, 7], 19), ([2, 3, 64], 33), ([13, 31], 40), ([130, 6], 3)):
        n = dims[-1]
        dense(f"matmul {dims} {m}", dims, m, ints(size(dims)), weights(m * n),
              [rng.randint(10, 20) for _ in range(m)], [rng.randint(-(1 << 31), 1 << 31) for _ in range(m)])
    # the extremes: every product as large as can be, of one sign, and bias and shift at their limits
    n = 70
    signs = [(x, w) for x in (LOW, HIGH) for w in (-HIGH, HIGH)]
    dense("matmul extremes", [4, n], 6, [v for x, _ in signs for v in [x] * n], [w for r in range(6) for w in [HIGH if r % 2 else -HIGH] * n],
          [0, 22, 62, 62, 21, 61], [0, 1, 1 << 60, -(1 << 60), -(1 << 36), 1 << 60])
    dense("matmul alternating", [2, n], 20, [LOW if k % 2 else HIGH for k in range(n)] + [HIGH if k % 3 else LOW for k in range(n)],
          [(-HIGH if (k + r) % 2 else HIGH) for r in range(20) for k in range(n)], [12 + r for r in range(20)], [r * 12345 for r in range(20)])

    for xd, wd, group, st, dil, pads in (
        ([1, 1, 6, 6], [3, 1, 3, 3], 1, [1, 1], [1, 1], [0, 0, 0, 0]),
        ([2, 4, 7, 5], [6, 2, 3, 2], 2, [2, 1], [1, 2], [1, 0, 2, 1]),
        ([1, 3, 11], [17, 3, 5], 1, [2], [1], [2, 2]),
        ([1, 5, 4, 4], [18, 5, 1, 1], 1, [1, 1], [1, 1], [0, 0, 0, 0]),
        ([1, 4, 5, 5], [4, 1, 3, 3], 4, [1, 1], [1, 1], [1, 1, 1, 1]),
    ):
        m = wd[0]
        xs, ws = ints(size(xd)), weights(size(wd))
        s, b = [rng.randint(12, 19) for _ in range(m)], [rng.randint(-(1 << 30), 1 << 30) for _ in range(m)]
        d, out = conv((xd, xs), (wd, ws), s, b, group, st, dil, pads)
        case(f"conv {xd} {wd} {group}", "ConvInt16", {"group": group, "strides": st, "dilations": dil, "pads": pads},
             [t16(xd, xs), t16(wd, ws), t32(s), t64([m], b)], t16(d, out))

    for low, high in ((0, HIGH), (-1000, 6000)):
        xs = [LOW, HIGH] + ints(30)
        case(f"clip {low} {high}", "ClipInt16", {}, [t16([4, 8], xs), t16([1], [low]), t16([1], [high])], t16([4, 8], [clamp(x, low, high) for x in xs]))
    for e in ([0, 0, 0], [3, 0, 2], [0, 16, 15], [16, 16, 0], [0, 2, 40]):
        a, b = [LOW, HIGH] + ints(22), [LOW, HIGH] + ints(22)
        case(f"add {e}", "AddInt16", {}, [t16([4, 6], a), t16([4, 6], b), t32(e)],
             t16([4, 6], [sat(rnd((x << e[0]) + (y << e[1]), e[2])) for x, y in zip(a, b)]))
        case(f"add broadcast {e}", "AddInt16", {}, [t16([4, 6], a), t16([6], b[:6]), t32(e)],
             t16([4, 6], [sat(rnd((x << e[0]) + (b[k % 6] << e[1]), e[2])) for k, x in enumerate(a)]))

    for xd, kernel, st, pads, ceil in (
        ([1, 2, 6, 6], [2, 2], [2, 2], [0, 0, 0, 0], 0),
        ([2, 1, 7, 5], [3, 3], [2, 1], [1, 1, 1, 1], 1),
        ([1, 3, 9], [4], [3], [1, 2], 0),
    ):
        xs = ints(size(xd))
        attrs = {"kernel_shape": kernel, "strides": st, "pads": pads, "ceil_mode": ceil}
        d, out = pool((xd, xs), kernel, st, pads, ceil, lambda v, _: max(v))
        case(f"maxpool {xd}", "MaxPoolInt16", attrs, [t16(xd, xs)], t16(d, out))
        for counted in (0, 1):
            for left in (0, 2):
                d, out = pool((xd, xs), kernel, st, pads, ceil, lambda v, padded: mean(sum(v), padded if counted else len(v), left))
                case(f"averagepool {xd} {counted} {left}", "AveragePoolInt16", dict(attrs, count_include_pad=counted), [t16(xd, xs), t32([left])], t16(d, out))
    for left in (0, 4):
        xd = [2, 3, 5, 3]
        xs = ints(size(xd))
        out = [mean(sum(xs[i * 15 : i * 15 + 15]), 15, left) for i in range(6)]
        case(f"globalaveragepool {left}", "GlobalAveragePoolInt16", {}, [t16(xd, xs), t32([left])], t16([2, 3, 1, 1], out))

    def blocks(name, dims, p, q, n, mode, xs, ws, s, b, r, e, sums):
        d, out = circulant((dims, xs), ([p, q, n], ws), s, b, r, e, sums, mode)
        attrs = {"rounding": "circnn"} if mode is CirCNN else {}
        case(name, "BlockCirculantMatMulInt16", attrs,
             [t16(dims, xs), t16([p, q, n], ws), t8([p, n // 2 + 1], s), t32(b, [p, n]), t8([q, n // 2 + 1], r), t8([len(e)], e), t32(sums)], t16(d, out))

    for log in range(1, 9):
        n = 1 << log
        bins = n // 2 + 1
        for mode in (Once, CirCNN):
            name = "circnn" if mode is CirCNN else "once"
            p, q = (3, 2) if n <= 16 else (1, 2) if n <= 64 else (1, 1)
            if n == 8:
                p, q = 9, 5
            rows = 19 if n <= 4 else 2
            m, row = p * n - n // 2 + (1 if n == 2 else 0), q * n - (n // 4)
            more = 3 if n >= 32 else 0
            r = [log] * (q + 3) * bins if mode is CirCNN else [max(0, (log + 1) // 2 - rng.randint(0, 1)) for _ in range((q + 3) * bins)]
            e = [log] * m if mode is CirCNN else [8 - (log + 1) // 2 + 2 * more + rng.randint(0, 1) for _ in range(m)]
            s = [rng.randint(11, 14) - log if mode is CirCNN else rng.randint(3, 5) + log // 2 - more for _ in range(p * bins)]
            blocks(f"circulant {n} {name}", [rows, row], p, q, n, mode, ints(rows * row), ints(p * q * n, -16383, 16383), s,
                   [rng.randint(-(1 << 20), 1 << 20) for _ in range(p * n)], r[: q * bins], e, [2, 3])
            # sums of one part and of many, of weights that a part of q blocks holds
            for group, shift in ((q + 3, 1), (2, 4)):
                size_ = 65000 // (2 * (q + 3)) if group > q else 16000
                q2 = q + 3
                row2 = q2 * n
                blocks(f"circulant {n} {name} sums {group}", [2, row2], 1, q2, n, mode, ints(2 * row2), ints(q2 * n, -size_, size_),
                       [rng.randint(8, 11) - (5 if mode is CirCNN else more) for _ in range(bins)], [rng.randint(-(1 << 20), 1 << 20) for _ in range(n)], r, e[:1] * (n - 1), [group, shift])
            # everything saturates: constant and alternating inputs, weights of the largest size
            xs = [HIGH if c % 2 else LOW for c in range(n)] + [LOW] * n + [HIGH if (c // 2) % 2 else LOW for c in range(n)]
            for w in (HIGH, -HIGH):
                end = [log] * n if mode is CirCNN else [0 if w > 0 else 8] * n
                blocks(f"circulant {n} {name} extremes {w}", [3, n], 1, 1, n, mode, xs, [w] * n, [0 if w > 0 else 15] * bins,
                       [(1 << 30) - (1 << 10) if w > 0 else -(1 << 29)] * n, [log if mode is CirCNN else 0] * bins, end, [1, 1])
    # bounds of every bin, met by numbers of either sign: what comes back is as large as can be
    for log in range(1, 9):
        n = 1 << log
        q, bins = 4, n // 2 + 1
        xs = [rng.choice([LOW, HIGH]) for _ in range(6 * q * n)]
        ws = [rng.choice([-16383, 16383]) for _ in range(2 * q * n)]
        blocks(f"circulant {n} once signs extremes", [6, q * n], 2, q, n, Once, xs, ws, [rng.randint(0, 3) for _ in range(2 * bins)],
               [rng.choice([-1, 1]) * (1 << 28) for _ in range(2 * n)], [0] * q * bins, [rng.randint(0, 12) for _ in range(2 * n)], [2, 3])

    def windows(name, xd, wd, m, st, dil, pads, mode, group, shift, auto=None, extreme=False, groups=1):
        p, q, n = wd[:3]
        log, bins = n.bit_length() - 1, n // 2 + 1
        more = 3 if n >= 32 else 0
        halved = mode is CirCNN
        most = 65000 // (2 * min(group, q * size(wd[3:])))
        xs = [rng.choice([LOW, HIGH]) for _ in range(size(xd))] if extreme else ints(size(xd))
        ws = [rng.choice([-most, most]) for _ in range(size(wd))] if extreme else ints(size(wd), -most, most)
        s = [rng.randint(0, 3) if extreme else rng.randint(8, 11) - (5 if halved else more) for _ in range(p * bins)]
        b = [rng.choice([-1, 1]) * (1 << 28) if extreme else rng.randint(-(1 << 20), 1 << 20) for _ in range(p * n)]
        r = [log if halved else 0 if extreme else max(0, (log + 1) // 2 - rng.randint(0, 1)) for _ in range(groups * q * bins)]
        e = [log if halved else rng.randint(0, 12) if extreme else 8 - (log + 1) // 2 + 2 * more + rng.randint(0, 1) for _ in range(m)]
        sums = [group, shift]
        d, out = circulant_conv((xd, xs), (wd, ws), s, b, r, e, sums, groups, st, dil, pads, mode)
        attrs = {"strides": st, "dilations": dil}
        attrs.update({"auto_pad": auto} if auto else {"pads": pads})
        attrs.update({"rounding": "circnn"} if halved else {})
        attrs.update({"group": groups} if groups > 1 else {})
        case(f"circulant conv {name}", "BlockCirculantConvInt16", attrs,
             [t16(xd, xs), t16(wd, ws), t8([p, bins], s), t32(b, [p, n]), t8([groups * q, bins], r), t8([m], e), t32(sums)], t16(d, out))

    for mode in (Once, CirCNN):
        name = "circnn" if mode is CirCNN else "once"
        # X, W [p, q, b, k...], outputs; strides, dilations, pads; blocks of a sum, and its shift
        windows(f"{name} 2", [1, 3, 5, 7], [2, 2, 2, 3, 3], 3, [1, 1], [1, 1], [1, 1, 1, 1], mode, 18, 1)
        windows(f"{name} 2 odd", [1, 2, 4, 6], [3, 1, 2, 3, 3], 6, [1, 1], [1, 1], [0, 0, 0, 0], mode, 4, 3)
        windows(f"{name} 4", [2, 6, 6, 5], [2, 2, 4, 3, 2], 7, [2, 1], [1, 2], [1, 0, 2, 1], mode, 4, 3)
        windows(f"{name} 4 wide", [1, 4, 3, 40], [9, 1, 4, 2, 3], 35, [1, 1], [1, 1], [0, 1, 0, 1], mode, 6, 0)
        windows(f"{name} 8 one axis", [2, 20, 23], [2, 3, 8, 5], 13, [2], [1], [2, 2], mode, 6, 3)
        windows(f"{name} 8", [1, 8, 9, 8], [3, 1, 8, 5, 5], 24, [1, 1], [1, 1], [0, 0, 0, 0], mode, 8, 3)
        windows(f"{name} 8 apart", [1, 9, 5, 6], [1, 2, 8, 2, 2], 8, [3, 2], [2, 3], [1, 2, 1, 2], mode, 8, 0)
        windows(f"{name} 16", [2, 30, 4, 4], [2, 2, 16, 3, 3], 17, [1, 1], [2, 2], [2, 2, 2, 2], mode, 6, 3)
        windows(f"{name} 16 pixels", [1, 48, 3, 3], [1, 3, 16, 1, 1], 16, [1, 1], [1, 1], [0, 0, 0, 0], mode, 3, 1)
        windows(f"{name} 16 same", [1, 16, 5, 4], [1, 1, 16, 2, 3], 16, [2, 1], [1, 1], [0, 1, 1, 1], mode, 6, 0, "SAME_UPPER")
        windows(f"{name} 4 three axes", [1, 4, 2, 3, 3], [1, 1, 4, 2, 2, 2], 4, [1, 1, 1], [1, 1, 1], [0, 1, 0, 1, 0, 1], mode, 8, 0)
        windows(f"{name} 32", [1, 40, 2, 3], [1, 2, 32, 2, 2], 30, [1, 1], [1, 1], [0, 0, 1, 1], mode, 8, 0)
        windows(f"{name} 64", [1, 64, 3], [1, 1, 64, 2], 60, [1], [1], [1, 0], mode, 2, 0)
    for n in (2, 4, 8, 16):
        windows(f"once {n} extremes", [1, n, 3, 4], [1, 1, n, 2, 2], n, [1, 1], [1, 1], [0, 0, 0, 0], Once, 2, 3, None, True)
    # pixels in front of which there is padding, and the last of which no tap reads
    windows("once 4 unread", [1, 4, 4, 5], [1, 1, 4, 1, 2], 4, [1, 3], [1, 1], [0, 2, 0, 0], Once, 2, 0)
    # groups whose channels fill their blocks and groups whose channels do not, of several samples
    for mode in (Once, CirCNN):
        name = "circnn" if mode is CirCNN else "once"
        windows(f"{name} 4 groups", [2, 16, 5, 6], [4, 2, 4, 3, 3], 16, [1, 1], [1, 1], [1, 1, 1, 1], mode, 6, 3, groups=2)
        windows(f"{name} 8 groups padded", [1, 36, 4, 5], [6, 2, 8, 3, 3], 30, [1, 1], [1, 1], [1, 1, 1, 1], mode, 6, 3, groups=3)
        windows(f"{name} 2 groups one axis", [2, 12, 19], [8, 2, 2, 3], 12, [2], [2], [1, 0], mode, 4, 2, groups=4)
    windows("once 16 groups", [1, 64, 3, 4], [4, 1, 16, 3, 3], 64, [1, 1], [1, 1], [1, 1, 1, 1], Once, 4, 3, groups=4)


if __name__ == "__main__":
    sys.stdout.reconfigure(newline="\n")
    main()
