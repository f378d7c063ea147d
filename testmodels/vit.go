package testmodels

import "github.com/onnx-lathe/lathe/graph"

// ViTOptions are what a vision transformer has besides its Size.
type ViTOptions struct {
	Image, Patch, Channels int  // sides of the image and of a patch; by default 16, 4 and 3
	LayerScale             bool // scale every branch by learnt weights, as DINOv2 does
}

// ViT builds a pre-LN encoder on patches of an image, with a class token, in
// the form of Hugging Face's ViTForImageClassification:
//
//	pixel_values [batch, Channels, Image, Image] → logits [batch, Classes]
//
// By default 3 layers of width 32, 2 heads, an MLP of 64 and 5 classes.
func ViT(s Size, o ViTOptions) *graph.Model {
	s = s.or(Size{Layers: 3, Width: 32, Heads: 2, Hidden: 64, Classes: 5})
	if o.Image == 0 {
		o.Image = 16
	}
	if o.Patch == 0 {
		o.Patch = 4
	}
	if o.Channels == 0 {
		o.Channels = 3
	}
	size, side := s.Width/s.Heads, o.Image/o.Patch
	b := newBuilder("vit", s)
	pixels := b.input("pixel_values", graph.Float32, "batch", o.Channels, o.Image, o.Image)
	var x *graph.Value
	b.in(func() {
		b.in(func() {
			b.in(func() {
				w := b.weight("weight", 0, fan(o.Channels*o.Patch*o.Patch), s.Width, o.Channels, o.Patch, o.Patch)
				x = b.conv(pixels, w, b.weight("bias", 0, 0.1, s.Width), o.Patch, o.Patch, 0)
			}, "patch_embeddings/projection")
			x = b.transpose(b.reshape(x, axis(x, 0), fixed(s.Width), fixed(-1)), 0, 2, 1)
			class := b.weight("cls_token", 0, 0.5, 1, 1, s.Width)
			class = b.op("Expand", ins{class, b.shape(axis(pixels, 0), fixed(1), fixed(s.Width))})
			x = b.concat(1, class, x)
			x = b.add(x, b.weight("position_embeddings", 0, 0.5, 1, side*side+1, s.Width))
		}, "embeddings")
		scale := func(y *graph.Value, name string) *graph.Value {
			if o.LayerScale {
				y = b.mul(y, b.weight(name, 0.5, 0.2, s.Width))
			}
			return y
		}
		for i := range s.Layers {
			b.in(func() {
				h := b.layerNorm("layernorm_before", x, s.Width, 1e-12)
				b.in(func() {
					q := b.linear("attention/query", h, s.Width, s.Width, 1.5, 0.1)
					k := b.heads(b.linear("attention/key", h, s.Width, s.Width, 1.5, 0.1), s.Heads, size)
					v := b.heads(b.linear("attention/value", h, s.Width, s.Width, 1, 0.1), s.Heads, size)
					h = b.merge(b.attend(b.heads(q, s.Heads, size), k, v, nil, size), s.Width)
					h = b.linear("output/dense", h, s.Width, s.Width, 2*b.gain(), 0.1)
				}, "attention")
				x = b.module("A", i, x, b.add(scale(h, "layer_scale1.lambda1"), x))
				h = b.layerNorm("layernorm_after", x, s.Width, 1e-12)
				h = b.gelu(b.linear("intermediate/dense", h, s.Width, s.Hidden, 1, 0.1), false)
				h = b.linear("output/dense", h, s.Hidden, s.Width, 2*b.gain(), 0.1)
				x = b.module("M", i, x, b.add(scale(h, "layer_scale2.lambda1"), x))
			}, "encoder/layer.%d", i)
		}
		x = b.layerNorm("layernorm", x, s.Width, 1e-12)
	}, "vit")
	x = b.op("Gather", ins{x, b.int(0)}, graph.IntAttr("axis", 1))
	b.output("logits", b.gemm("classifier", x, s.Width, s.Classes, 1), graph.Float32, "batch", s.Classes)
	return b.model()
}
