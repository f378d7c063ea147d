package runtime

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onnx-lathe/lathe/graph"
)

// detectOps are those of object detectors: boxes, and pools of regions.
var detectOps = []operator{
	{"", "NonMaxSuppression", 10, prepareNonMaxSuppression, nil, 0},
	{"", "RoiAlign", 10, prepareRoiAlign, nil, halves},
	{"", "MaxRoiPool", 1, prepareMaxRoiPool, nil, halves},
}

// prepareNonMaxSuppression: boxes [B, S, 4], scores [B, classes, S] → indices
// [n, 3] of (batch, class, box). In every class the box of the highest score
// (above the threshold) is taken, of equal ones the first, and all are dropped
// that overlap it by more than iou_threshold of their union; then the next.
// Boxes are two corners in any order, or with center_point_box centres and
// sizes.
func prepareNonMaxSuppression(n *node) (kernel, error) {
	centres := n.bool("center_point_box", false)
	number := func(c *call, i int, def float32) (float32, error) {
		if !c.has(i) {
			return def, nil
		}
		return one[float32](c.in[i], "threshold")
	}
	return func(c *call) error {
		boxes, scores := c.in[0], c.in[1]
		if boxes.DType != graph.Float32 || scores.DType != graph.Float32 {
			return errors.New("boxes and scores are not float")
		}
		if len(boxes.Shape) != 3 || len(scores.Shape) != 3 || boxes.Shape[2] != 4 || boxes.Shape[0] != scores.Shape[0] || boxes.Shape[1] != scores.Shape[2] {
			return fmt.Errorf("boxes %v with scores %v, want [batch, boxes, 4] and [batch, classes, boxes]", boxes.Shape, scores.Shape)
		}
		most := int64(0)
		var err error
		if c.has(2) {
			if most, err = one[int64](c.in[2], "max_output_boxes_per_class"); err != nil {
				return err
			}
		}
		overlap, err := number(c, 3, 0)
		if err != nil {
			return err
		}
		if !(overlap >= 0 && overlap <= 1) {
			return fmt.Errorf("iou_threshold %v, want 0 to 1", overlap)
		}
		least, err := number(c, 4, float32(math.Inf(-1)))
		if err != nil {
			return err
		}
		var found []int64
		classes, size := scores.Shape[1], scores.Shape[2]
		order := make([]int, 0, size)
		for b := range boxes.Shape[0] {
			corners := make([]box, size)
			for i := range corners {
				corners[i] = boxOf(boxes.F32()[(b*size+i)*4:][:4], centres)
			}
			for class := range classes {
				if err := c.s.ctx.Err(); err != nil {
					return err
				}
				s := scores.F32()[(b*classes+class)*size:][:size]
				order = order[:0]
				for i, v := range s {
					if !c.has(4) || v > least {
						order = append(order, i)
					}
				}
				slices.SortStableFunc(order, func(i, j int) int {
					switch {
					case s[i] > s[j]:
						return -1
					case s[i] < s[j]:
						return 1
					}
					return 0
				})
				first := len(found)
			candidates:
				for _, i := range order {
					if int64(len(found)-first)/3 >= most {
						break
					}
					for k := first; k < len(found); k += 3 {
						if corners[i].overlap(corners[found[k+2]]) > overlap {
							continue candidates
						}
					}
					found = append(found, int64(b), int64(class), int64(i))
				}
			}
		}
		y, err := c.alloc(0, graph.Int64, len(found)/3, 3)
		if err != nil {
			return err
		}
		copy(y.I64(), found)
		return nil
	}, errors.Join(n.inputs(2, 5), n.err)
}

// box is the lower and the upper corner.
type box struct{ y0, x0, y1, x1 float32 }

func boxOf(v []float32, centre bool) box {
	if centre { // x, y, width, height
		return box{v[1] - v[3]/2, v[0] - v[2]/2, v[1] + v[3]/2, v[0] + v[2]/2}
	}
	return box{min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])}
}

func (a box) area() float32 { return (a.y1 - a.y0) * (a.x1 - a.x0) }

// overlap is the part that a and b share of their union, 0 where one is empty.
func (a box) overlap(b box) float32 {
	h, w := min(a.y1, b.y1)-max(a.y0, b.y0), min(a.x1, b.x1)-max(a.x0, b.x0)
	if h <= 0 || w <= 0 || a.area() <= 0 || b.area() <= 0 {
		return 0
	}
	both := float32(h * w)
	return both / (a.area() + b.area() - both)
}

// roiPool is RoiAlign or MaxRoiPool: X [N, C, H, W] and regions → [R, C, h, w].
type roiPool struct {
	height, width, sampling int
	scale                   float64
	largest, halfPixel      bool
}

// regions checks the shapes and allocates the output.
func (p *roiPool) regions(c *call, rois *Tensor, columns int) (z *Tensor, err error) {
	x := c.in[0]
	if len(x.Shape) != 4 || len(rois.Shape) != 2 || rois.Shape[1] != columns || rois.DType != x.DType {
		return nil, fmt.Errorf("X %v with regions %v%v, want [N, C, H, W] and [R, %d] of one type", x.Shape, rois.DType, rois.Shape, columns)
	}
	return c.alloc(0, x.DType, rois.Shape[0], x.Shape[1], p.height, p.width)
}

// prepareRoiAlign (He and others: Mask R-CNN, 2017): every bin of a region is
// the mean of bilinear samples, or the largest of their weighted corners, as
// ONNX Runtime has it. The region is [x1, y1, x2, y2] in units of spatial_scale,
// shifted by half a pixel since opset 16.
func prepareRoiAlign(n *node) (kernel, error) {
	p := &roiPool{
		height: n.int("output_height", 1), width: n.int("output_width", 1), sampling: n.int("sampling_ratio", 0),
		scale: float64(n.float("spatial_scale", 1)), largest: n.oneOf("mode", "avg", "avg", "max") == "max",
	}
	if n.opset >= 16 {
		p.halfPixel = n.oneOf("coordinate_transformation_mode", "half_pixel", "half_pixel", "output_half_pixel") == "half_pixel"
	}
	if p.height < 1 || p.width < 1 || p.height > math.MaxInt32 || p.width > math.MaxInt32 || p.sampling < 0 {
		return nil, fmt.Errorf("output of %d × %d with sampling_ratio %d", p.height, p.width, p.sampling)
	}
	return byType{graph.Float32: roiAlign[float32](p), graph.Float64: roiAlign[float64](p)}.kernel(0), errors.Join(n.inputs(3, 3), n.err)
}

func roiAlign[T float32 | float64](p *roiPool) kernel {
	return func(c *call) error {
		x, rois, batch := c.in[0], c.in[1], c.in[2]
		z, err := p.regions(c, rois, 4)
		if err != nil || z.Len() == 0 {
			return err
		}
		if batch.DType != graph.Int64 || batch.Len() != rois.Shape[0] {
			return fmt.Errorf("batch_indices %v%v for %d regions", batch.DType, batch.Shape, rois.Shape[0])
		}
		height, width := x.Shape[2], x.Shape[3]
		if height == 0 || width == 0 {
			return fmt.Errorf("X %v has nothing to read", x.Shape)
		}
		in, out := view[T](x), view[T](z)
		for r := range rois.Shape[0] {
			if err := c.s.ctx.Err(); err != nil {
				return err
			}
			b := batch.I64()[r]
			if b < 0 || b >= int64(x.Shape[0]) {
				return fmt.Errorf("batch index %d for X %v", b, x.Shape)
			}
			shift := 0.0
			if p.halfPixel {
				shift = 0.5
			}
			var at [4]float64
			for i := range at {
				at[i] = float64(view[T](rois)[r*4+i])*p.scale - shift
				if !(math.Abs(at[i]) <= math.MaxInt32) {
					return fmt.Errorf("region %d lies at %v", r, at[i])
				}
			}
			w, h := at[2]-at[0], at[3]-at[1]
			if !p.halfPixel {
				w, h = math.Max(w, 1), math.Max(h, 1)
			}
			binH, binW := h/float64(p.height), w/float64(p.width)
			ny, nx := p.sampling, p.sampling
			if p.sampling == 0 {
				ny, nx = int(math.Ceil(binH)), int(math.Ceil(binW))
			}
			// No more samples than some for each element of X can be meant.
			if ny > 16*(height+16) || nx > 16*(width+16) {
				return fmt.Errorf("region %d takes %d × %d samples a bin", r, ny, nx)
			}
			for ch := range x.Shape[1] {
				plane := in[(int(b)*x.Shape[1]+ch)*height*width:][:height*width]
				for i := range p.height * p.width {
					y0, x0 := at[1]+float64(i/p.width)*binH, at[0]+float64(i%p.width)*binW
					sum, first := 0.0, true
					for iy := range ny {
						for ix := range nx {
							corners := bilinear(plane, height, width, y0+(float64(iy)+0.5)*binH/float64(ny), x0+(float64(ix)+0.5)*binW/float64(nx))
							if !p.largest {
								sum += corners[0] + corners[1] + corners[2] + corners[3]
							} else if v := slices.Max(corners[:]); first || v > sum {
								sum, first = v, false
							}
						}
					}
					if !p.largest {
						sum /= math.Max(float64(ny*nx), 1)
					}
					out[(r*x.Shape[1]+ch)*p.height*p.width+i] = T(sum)
				}
			}
		}
		return nil
	}
}

// bilinear returns the four elements around (y, x), weighted; zeros outside of
// the plane by more than one.
func bilinear[T float32 | float64](plane []T, height, width int, y, x float64) (corners [4]float64) {
	if y < -1 || y > float64(height) || x < -1 || x > float64(width) {
		return corners
	}
	y, x = math.Max(y, 0), math.Max(x, 0)
	y0, x0 := int(y), int(x)
	y1, x1 := y0+1, x0+1
	if y0 >= height-1 {
		y0, y1, y = height-1, height-1, float64(height-1)
	}
	if x0 >= width-1 {
		x0, x1, x = width-1, width-1, float64(width-1)
	}
	dy, dx := y-float64(y0), x-float64(x0)
	return [4]float64{
		(1 - dy) * (1 - dx) * float64(plane[y0*width+x0]), (1 - dy) * dx * float64(plane[y0*width+x1]),
		dy * (1 - dx) * float64(plane[y1*width+x0]), dy * dx * float64(plane[y1*width+x1]),
	}
}

// prepareMaxRoiPool (Girshick: Fast R-CNN, 2015): every bin of a region [batch,
// x1, y1, x2, y2], both ends in it, is its largest element, 0 where it has none.
func prepareMaxRoiPool(n *node) (kernel, error) {
	p := &roiPool{scale: float64(n.float("spatial_scale", 1))}
	shape := n.ints("pooled_shape")
	if len(shape) != 2 || shape[0] < 1 || shape[1] < 1 || max(shape[0], shape[1]) > math.MaxInt32 {
		return nil, fmt.Errorf("pooled_shape %v, want two dims", shape)
	}
	p.height, p.width = shape[0], shape[1]
	return byType{graph.Float32: maxRoiPool[float32](p), graph.Float64: maxRoiPool[float64](p)}.kernel(0), n.inputs(2, 2)
}

func maxRoiPool[T float32 | float64](p *roiPool) kernel {
	return func(c *call) error {
		x, rois := c.in[0], c.in[1]
		z, err := p.regions(c, rois, 5)
		if err != nil || z.Len() == 0 {
			return err
		}
		height, width := x.Shape[2], x.Shape[3]
		in, out := view[T](x), view[T](z)
		// bin is the run of elements of bin i of an axis.
		bin := func(i, bins int, from, size float64, d int) (lo, hi int) {
			lo, hi = int(from+math.Floor(float64(i)*size/float64(bins))), int(from+math.Ceil(float64(i+1)*size/float64(bins)))
			return min(max(lo, 0), d), min(max(hi, 0), d)
		}
		for r := range rois.Shape[0] {
			if err := c.s.ctx.Err(); err != nil {
				return err
			}
			var at [5]float64
			for i := range at {
				at[i] = float64(view[T](rois)[r*5+i])
				if i > 0 {
					at[i] = math.Round(at[i] * p.scale)
				}
				if !(math.Abs(at[i]) <= math.MaxInt32) {
					return fmt.Errorf("region %d lies at %v", r, at[i])
				}
			}
			b := int(at[0])
			if b < 0 || b >= x.Shape[0] {
				return fmt.Errorf("batch index %d for X %v", b, x.Shape)
			}
			w, h := math.Max(at[3]-at[1]+1, 1), math.Max(at[4]-at[2]+1, 1)
			for ch := range x.Shape[1] {
				plane := in[(b*x.Shape[1]+ch)*height*width:]
				for i := range p.height * p.width {
					y0, y1 := bin(i/p.width, p.height, at[2], h, height)
					x0, x1 := bin(i%p.width, p.width, at[1], w, width)
					best, empty := T(0), true
					for y := y0; y < y1; y++ {
						for k := x0; k < x1; k++ {
							if v := plane[y*width+k]; empty || v > best {
								best, empty = v, false
							}
						}
					}
					out[(r*x.Shape[1]+ch)*p.height*p.width+i] = best
				}
			}
		}
		return nil
	}
}
