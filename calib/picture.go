package calib

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg" // formats that are read
	_ "image/png"
	"math"
	"os"
	"slices"

	"golang.org/x/image/draw"

	"github.com/onnx-lathe/lathe/graph"
	"github.com/onnx-lathe/lathe/runtime"
)

// pictures is a folder of pictures.
type pictures struct{ *files }

// maxPixels bounds a picture: decoders take eight bytes a pixel at once.
const maxPixels = 64 << 20

const arrayPixels = "pixels"

func openPictures(f *files) (kind, error) {
	if f.source.opts.Normalize == NormalizeStandard {
		return nil, errors.New("--normalize standard is for sounds; pictures take imagenet, half, zero-one or none")
	}
	return pictures{f}, nil
}

func (p pictures) lacks(port runtime.Port) string {
	return "pictures feed one input of [samples, channels, height, width]; name it with --map pixels=" + port.Name
}

// layout is how an input holds a picture.
type layout struct {
	height, width, channels int
	last                    bool  // channels are the last axis
	shape                   []int // of a sample
}

func (p pictures) bind(f *Feed) error {
	mapped, err := f.mapped([]string{arrayPixels})
	if err != nil {
		return err
	}
	at, chosen := mapped[arrayPixels]
	if !chosen {
		at = -1
		for i, port := range f.ports {
			if (port.Rank == 4 || port.Rank == 3) && (port.DType == graph.Float32 || port.DType == graph.Uint8) && !isPast(port) {
				if at >= 0 && port.Rank == f.ports[at].Rank {
					return fmt.Errorf("inputs %q and %q may both take pictures; choose with --map pixels=%s", f.ports[at].Name, port.Name, port.Name)
				}
				if at < 0 || port.Rank == 4 {
					at = i
				}
			}
		}
		if at < 0 {
			return fmt.Errorf("no input takes pictures, which are float or uint8 of [samples, channels, height, width]; the inputs are %v", f.ports)
		}
	}
	port := f.ports[at]
	l, err := p.layout(port)
	if err != nil {
		return err
	}
	o := p.source.opts
	normalize := o.Normalize
	if normalize == "" {
		switch {
		case port.DType == graph.Uint8:
			normalize = NormalizeNone
		case l.channels == 3:
			normalize = NormalizeImageNet
		default:
			normalize = NormalizeZeroOne
		}
	}
	switch {
	case port.DType == graph.Uint8 && normalize != NormalizeNone:
		return fmt.Errorf("input %v takes pixels as they are; leave --normalize %s out", port, normalize)
	case normalize == NormalizeImageNet && l.channels != 3:
		return fmt.Errorf("--normalize imagenet is for three channels, and input %v has %d", port, l.channels)
	}
	crop := o.Crop
	if crop == 0 {
		crop = 1
	}
	f.Notes = append(f.Notes, fmt.Sprintf("pictures are scaled to %d×%d for input %q, normalised as %s", l.width, l.height, port.Name, normalize))
	f.total = len(p.list)
	return p.feed(f, at, l.shape, func(path string) ([]float32, error) { return readPicture(path, l, crop, normalize) })
}

// layout finds out how port holds a picture.
func (p pictures) layout(port runtime.Port) (layout, error) {
	if port.Rank != 4 && port.Rank != 3 {
		return layout{}, fmt.Errorf("input %v takes no pictures, which are [samples, channels, height, width]", port)
	}
	l := layout{channels: 1}
	dim := func(k int) int {
		if d := port.Shape.Dims[k]; d.IsKnown() {
			return int(min(max(d.N, 0), math.MaxInt32))
		}
		return p.source.opts.Size
	}
	channels := func(k int) bool {
		d := port.Shape.Dims[k]
		return d.IsKnown() && (d.N == 1 || d.N == 3)
	}
	switch {
	case port.Rank == 3: // grey, without an axis for it
		l.height, l.width = dim(1), dim(2)
		l.shape = []int{l.height, l.width}
	case !channels(1) && channels(3):
		l.height, l.width, l.channels, l.last = dim(1), dim(2), int(port.Shape.Dims[3].N), true
		l.shape = []int{l.height, l.width, l.channels}
	case channels(1), !port.Shape.Dims[1].IsKnown():
		l.height, l.width, l.channels = dim(2), dim(3), 3
		if channels(1) {
			l.channels = int(port.Shape.Dims[1].N)
		}
		l.shape = []int{l.channels, l.height, l.width}
	default:
		return l, fmt.Errorf("input %v has neither one channel nor three, and pictures have", port)
	}
	switch {
	case l.height < 1 || l.width < 1:
		return l, fmt.Errorf("input %v leaves the size of pictures open; give it with --size, as in --size 224", port)
	case l.height > maxPixels || l.width > maxPixels || int64(l.height)*int64(l.width) > maxPixels:
		return l, fmt.Errorf("input %v takes pictures of %d×%d; the largest have %d pixels", port, l.width, l.height, maxPixels)
	}
	return l, nil
}

// readPicture decodes a picture, scales it so that crop of its shorter side
// fills the layout, cuts out the middle, and normalizes.
func readPicture(path string, l layout, crop float64, normalize Normalize) (v []float32, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("cannot be decoded: %v", r)
		}
	}()
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// The header first: a decoder makes room for all that it promises.
	head, _, err := image.DecodeConfig(file)
	if err != nil {
		return nil, fmt.Errorf("is no PNG or JPEG that can be read: %w", err)
	}
	if head.Width < 1 || head.Height < 1 || head.Width > maxPixels/head.Height {
		return nil, fmt.Errorf("has %d×%d pixels; the largest picture that is read has %d million", head.Width, head.Height, maxPixels>>20)
	}
	if _, err := file.Seek(0, 0); err != nil {
		return nil, err
	}
	src, _, err := image.Decode(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be decoded: %w", err)
	}
	b := src.Bounds()
	// The part of the picture that fills the layout: as wide and high as it,
	// times the scale.
	scale := crop * min(float64(b.Dx())/float64(l.width), float64(b.Dy())/float64(l.height))
	w := max(1, int(math.Round(scale*float64(l.width))))
	h := max(1, int(math.Round(scale*float64(l.height))))
	x, y := b.Min.X+(b.Dx()-w)/2, b.Min.Y+(b.Dy()-h)/2
	dst := image.NewRGBA(image.Rect(0, 0, l.width, l.height))
	draw.Draw(dst, dst.Bounds(), image.NewUniform(color.Black), image.Point{}, draw.Src)
	draw.BiLinear.Scale(dst, dst.Bounds(), src, image.Rect(x, y, x+w, y+h), draw.Over, nil)
	return pixels(dst, l, normalize), nil
}

// Means and deviations of ImageNet's pixels from 0 to 1, red, green and blue,
// by which its models are trained.
var (
	imageNetMean      = []float64{0.485, 0.456, 0.406}
	imageNetDeviation = []float64{0.229, 0.224, 0.225}
)

// pixels lays a picture out and normalizes it.
func pixels(m *image.RGBA, l layout, normalize Normalize) []float32 {
	out := make([]float32, l.height*l.width*l.channels)
	mean, deviation := []float64{0, 0, 0}, []float64{1, 1, 1} // of pixels from 0 to 255
	switch normalize {
	case NormalizeImageNet:
		for c := range 3 {
			mean[c], deviation[c] = 255*imageNetMean[c], 255*imageNetDeviation[c]
		}
	case NormalizeHalf:
		mean, deviation = slices.Repeat([]float64{127.5}, 3), slices.Repeat([]float64{127.5}, 3)
	case NormalizeZeroOne:
		deviation = slices.Repeat([]float64{255}, 3)
	}
	for y := range l.height {
		for x := range l.width {
			p := m.RGBAAt(x, y)
			rgb := [3]uint8{p.R, p.G, p.B}
			if l.channels == 1 {
				rgb[0] = color.GrayModel.Convert(p).(color.Gray).Y
			}
			for c := range l.channels {
				at := (c*l.height+y)*l.width + x
				if l.last {
					at = (y*l.width+x)*l.channels + c
				}
				out[at] = float32((float64(rgb[c]) - mean[c]) / deviation[c])
			}
		}
	}
	return out
}
