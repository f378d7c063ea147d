package testmodels

import "github.com/onnx-lathe/lathe/graph"

// CNN is the size of a convolutional network. Zero values get the network's
// defaults.
type CNN struct {
	Image     int  // side of the square image
	Channels  int  // of the image
	Width     int  // channels of the first convolution
	Blocks    int  // residual blocks; every second one halves the image and doubles the channels
	BatchNorm bool // keep BatchNormalization nodes, which exporters fold into the convolutions
	Classes   int
	Opset     int64 // 13 to 23
	Seed      uint64
}

func (c CNN) or(d CNN) CNN {
	for _, f := range []struct{ own, def *int }{
		{&c.Image, &d.Image}, {&c.Channels, &d.Channels}, {&c.Width, &d.Width}, {&c.Blocks, &d.Blocks}, {&c.Classes, &d.Classes},
	} {
		if *f.own == 0 {
			*f.own = *f.def
		}
	}
	c.Opset = Size{Opset: c.Opset}.or(Size{}).Opset
	return c
}

// LeNet builds two convolutions with pooling and two linear layers:
//
//	image [batch, Channels, Image, Image] → logits [batch, Classes]
//
// By default images of 1×12×12, 4 channels in the first and 8 in the second
// convolution, and 10 classes. Blocks and BatchNorm mean nothing here.
func LeNet(c CNN) *graph.Model {
	c = c.or(CNN{Image: 12, Channels: 1, Width: 4, Classes: 10})
	b := newBuilder("lenet", Size{Opset: c.Opset, Seed: c.Seed})
	x := b.input("image", graph.Float32, "batch", c.Channels, c.Image, c.Image)
	side, channels := c.Image, c.Channels
	for _, width := range []int{c.Width, 2 * c.Width} {
		b.in(func() {
			x = b.op("Relu", ins{b.convolution("conv", x, channels, width, 3, 1, true)})
			x = b.op("MaxPool", ins{x}, graph.IntAttr("ceil_mode", 0), graph.IntsAttr("dilations", 1, 1),
				graph.IntsAttr("kernel_shape", 2, 2), graph.IntsAttr("pads", 0, 0, 0, 0), graph.IntsAttr("strides", 2, 2))
		}, "features/%d", width)
		side, channels = side/2, width
	}
	flat := channels * side * side
	x = b.reshape(x, fixed(-1), fixed(flat))
	x = b.op("Relu", ins{b.gemm("fc1", x, flat, 4*channels, 1.4)})
	b.output("logits", b.gemm("fc2", x, 4*channels, c.Classes, 1), graph.Float32, "batch", c.Classes)
	return b.m
}

// ResNet builds a residual network of two-convolution blocks in the form of
// torchvision's:
//
//	image [batch, Channels, Image, Image] → logits [batch, Classes]
//
// By default images of 3×16×16, 8 channels in the first convolution, 4 blocks
// and 10 classes.
func ResNet(c CNN) *graph.Model {
	c = c.or(CNN{Image: 16, Channels: 3, Width: 8, Blocks: 4, Classes: 10})
	b := newBuilder("resnet", Size{Opset: c.Opset, Seed: c.Seed})
	x := b.input("image", graph.Float32, "batch", c.Channels, c.Image, c.Image)
	x = b.op("Relu", ins{b.convNorm("conv1", x, c.Channels, c.Width, 3, 1, c)})
	channels := c.Width
	for i := range c.Blocks {
		b.in(func() {
			width, stride, skip := channels, 1, x
			if i%2 == 1 {
				width, stride = 2*channels, 2
			}
			y := b.op("Relu", ins{b.convNorm("conv1", x, channels, width, 3, stride, c)})
			y = b.convNorm("conv2", y, width, width, 3, 1, c)
			if stride > 1 {
				skip = b.convNorm("downsample", x, channels, width, 1, stride, c)
			}
			x, channels = b.op("Relu", ins{b.add(y, skip)}), width
		}, "layer%d", i+1)
	}
	x = b.op("Flatten", ins{b.op("GlobalAveragePool", ins{x})}, graph.IntAttr("axis", 1))
	b.output("logits", b.gemm("fc", x, channels, c.Classes, 1), graph.Float32, "batch", c.Classes)
	return b.m
}

// convNorm is a convolution with batch normalization, folded or not.
func (b *builder) convNorm(name string, x *graph.Value, in, out, kernel, stride int, c CNN) *graph.Value {
	y := b.convolution(name, x, in, out, kernel, stride, !c.BatchNorm)
	if !c.BatchNorm {
		return y
	}
	b.in(func() {
		y = b.op("BatchNormalization", ins{y,
			b.weight("weight", 1, 0.1, out), b.weight("bias", 0, 0.1, out),
			b.weight("running_mean", 0, 0.1, out), b.weight("running_var", 1, 0.08, out),
		}, graph.FloatAttr("epsilon", 1e-5), graph.FloatAttr("momentum", 0.9))
	}, "%s/norm", name)
	return y
}

// convolution is nn.Conv2d on x [N, in, H, W] with a padding that keeps H and
// W at stride 1.
func (b *builder) convolution(name string, x *graph.Value, in, out, kernel, stride int, bias bool) (y *graph.Value) {
	b.in(func() {
		w := b.weight("weight", 0, 1.4*fan(in*kernel*kernel), out, in, kernel, kernel)
		var shift *graph.Value
		if bias {
			shift = b.weight("bias", 0, 0.1, out)
		}
		y = b.conv(x, w, shift, kernel, stride, kernel/2)
	}, "%s", name)
	return y
}

// conv is Conv in two dimensions with the same kernel, stride and padding
// along both; bias may be nil.
func (b *builder) conv(x, w, bias *graph.Value, kernel, stride, pad int) *graph.Value {
	inputs := ins{x, w}
	if bias != nil {
		inputs = append(inputs, bias)
	}
	k, s, p := int64(kernel), int64(stride), int64(pad)
	return b.op("Conv", inputs, graph.IntsAttr("dilations", 1, 1), graph.IntAttr("group", 1),
		graph.IntsAttr("kernel_shape", k, k), graph.IntsAttr("pads", p, p, p, p), graph.IntsAttr("strides", s, s))
}
