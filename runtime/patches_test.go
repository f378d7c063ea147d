package runtime

import (
	"fmt"
	"testing"
)

// The product of columns with weights is the convolution, for every geometry.
func TestPatches(t *testing.T) {
	const channels, m = 3, 2
	for _, g := range geometries {
		taps, _ := count(g.kernel)
		p, err := NewPatches(graphNode(t, fmt.Sprintf("y = Conv <%s> (x, w)", g.text())), g.kernel)
		if err != nil {
			t.Fatal(err)
		}
		shape := append([]int{2, channels}, g.in...)
		places, length, err := p.Set(shape)
		if out, _ := count(g.out); err != nil || places != out || length != channels*taps {
			t.Fatalf("%+v: %d places of %d, %v", g, places, length, err)
		}
		x, w := noise(1, shape...), noise(2, append([]int{m, channels}, g.kernel...)...)
		want, bound := convolved(g, floatsOf(t, x), floatsOf(t, w), nil, 2, channels, m, 1)
		column := make([]float32, length)
		for i := range 2 {
			size := x.Len() / 2
			for o := range places {
				p.Read(column, x.F32()[i*size:(i+1)*size], o)
				for r := range m {
					sum := 0.0
					for k, v := range column {
						sum += float64(v) * float64(w.F32()[(r*channels+k%channels)*taps+k/channels])
					}
					at := (i*m+r)*places + o
					if d := sum - want[at]; !(d <= bound[at] && -d <= bound[at]) {
						t.Fatalf("%+v: sample %d, place %d, output %d is %v, want %v", g, i, o, r, sum, want[at])
					}
				}
			}
		}
	}
}
