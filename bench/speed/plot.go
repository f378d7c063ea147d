package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// palette is Okabe and Ito's, which the colour-blind tell apart.
var palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {230, 159, 0, 255},
}

// picture draws the speed-up over block size that the results have, with the
// spread of every point and crosses for the goals, in the format png or svg.
func picture(results []result, m machine, format string) ([]byte, error) {
	p := plot.New()
	p.Title.Text = "Block-circulant layers against the dense original in ONNX Runtime, one thread"
	p.X.Label.Text = "block size b"
	p.Y.Label.Text = "times as fast"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())

	blocks := map[int]bool{}
	top := 1.0
	lines := 0
	for _, g := range groups {
		if !g.plot {
			continue
		}
		for _, c := range g.contests {
			var points spread
			var goals plotter.XYs
			for _, r := range results {
				if r.Group != g.name || r.of != c.of.name || r.block == 0 || r.drop || r.Left != "" {
					continue
				}
				at := plotter.XY{X: float64(r.block), Y: r.Ratio}
				points.XYs = append(points.XYs, at)
				points.errors = append(points.errors, [2]float64{r.Ratio - r.P10, r.P90 - r.Ratio})
				if r.Goal > 0 {
					goals = append(goals, plotter.XY{X: at.X, Y: r.Goal})
				}
				blocks[r.block] = true
				top = max(top, r.P90, r.Goal)
			}
			if len(points.XYs) == 0 {
				continue
			}
			line, dots, err := plotter.NewLinePoints(points.XYs)
			if err != nil {
				return nil, err
			}
			bars, err := plotter.NewYErrorBars(points)
			if err != nil {
				return nil, err
			}
			marks, err := plotter.NewScatter(goals)
			if err != nil {
				return nil, err
			}
			hue := palette[lines%len(palette)]
			lines++
			line.Color, dots.Color, bars.Color, marks.Color = hue, hue, hue, hue
			line.Width, dots.Shape, marks.Shape = vg.Points(1.5), draw.CircleGlyph{}, draw.CrossGlyph{}
			marks.Radius = vg.Points(4)
			p.Add(line, dots, bars, marks)
			p.Legend.Add(fmt.Sprintf("%s, T = %d", c.of.name, c.tokens[0]), line, dots)
		}
	}
	if lines == 0 {
		return nil, errors.New("no result to draw")
	}
	goal, _ := plotter.NewScatter(plotter.XYs{})
	goal.Shape, goal.Radius = draw.CrossGlyph{}, vg.Points(4)
	p.Legend.Add("goal", goal)
	var ticks []plot.Tick
	for b := range blocks {
		ticks = append(ticks, plot.Tick{Value: float64(b), Label: fmt.Sprint(b)})
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.X.Min, p.X.Max = float64(slices.MinFunc(ticks, byValue).Value)/1.2, float64(slices.MaxFunc(ticks, byValue).Value)*1.2
	ticks = nil
	p.Y.Min, p.Y.Max = 1, math.Pow(2, math.Ceil(math.Log2(top)))
	for y := p.Y.Min; y <= p.Y.Max; y *= 2 {
		ticks = append(ticks, plot.Tick{Value: y, Label: fmt.Sprint(y)})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	p.X.Label.Text += fmt.Sprintf("    (%s, %s)", m.CPU, m.Path)

	w, err := p.WriterTo(8*vg.Inch, 5*vg.Inch, format)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	_, err = w.WriteTo(&out)
	return out.Bytes(), err
}

func byValue(a, b plot.Tick) int { return int(a.Value) - int(b.Value) }

// spread is points with the distances from median to p10 and to p90.
type spread struct {
	plotter.XYs
	errors [][2]float64
}

// YError is part of what an error bar asks for.
func (s spread) YError(i int) (low, high float64) { return s.errors[i][0], s.errors[i][1] }
