package nd_test

import (
	"math"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sbinet/npyio/npz"

	"github.com/onnx-lathe/lathe/bench/nd"
)

// arrays has every element type, and the shapes that headers get wrong: no
// dimensions, one, an empty one, many.
var arrays = map[string]nd.Array{
	"f4": nd.Of([]float32{1, float32(math.Inf(1)), -0.5, 3, 4, 5}, 1, 2, 3),
	"f8": nd.Of([]float64{math.Pi}),
	"i1": nd.Of([]int8{-128, 127}, 2),
	"i2": nd.Of([]int16{-5}, 1, 1),
	"i4": nd.Of([]int32{1 << 30, -1}, 2, 1),
	"i8": nd.Of([]int64{math.MinInt64, 7, 8, 9}, 4),
	"u1": nd.Of([]uint8{255}, 1),
	"u2": nd.Of([]uint16{65535}, 1),
	"u4": nd.Of([]uint32{math.MaxUint32}, 1),
	"u8": nd.Of([]uint64{math.MaxUint64}, 1),
	"b1": nd.Of([]bool{true, false, true}, 3),
	"no": nd.Of([]float32{}, 2, 0, 3),
}

func TestNPZRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npz")
	if err := nd.WriteNPZ(path, arrays); err != nil {
		t.Fatal(err)
	}
	got, err := nd.ReadNPZ(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, arrays) {
		t.Errorf("read back %v, wrote %v", got, arrays)
	}
}

// Another reader of the format must see the same array.
func TestNPZReadElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npz")
	if err := nd.WriteNPZ(path, arrays); err != nil {
		t.Fatal(err)
	}
	z, err := npz.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var got []float32
	if err := z.Read("f4.npy", &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, arrays["f4"].Data) {
		t.Errorf("npyio reads %v, wrote %v", got, arrays["f4"].Data)
	}
	if shape := z.Header("f4.npy").Descr.Shape; !reflect.DeepEqual(shape, []int{1, 2, 3}) {
		t.Errorf("npyio reads shape %v", shape)
	}
}

func TestRowsAndConcat(t *testing.T) {
	a := nd.Of([]int32{0, 1, 2, 3, 4, 5}, 3, 2)
	head, err := a.Rows(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	tail, err := a.Rows(1, 3)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := nd.Concat([]nd.Array{head, tail})
	if err != nil || !reflect.DeepEqual(whole, a) {
		t.Errorf("got %v, %v; want %v", whole, err, a)
	}
	for name, bad := range map[string]func() error{
		"beyond the end":  func() error { _, err := a.Rows(2, 4); return err },
		"of a scalar":     func() error { _, err := nd.Of([]int32{1}).Rows(0, 1); return err },
		"other row":       func() error { _, err := nd.Concat([]nd.Array{a, nd.Of([]int32{1}, 1, 1)}); return err },
		"other type":      func() error { _, err := nd.Concat([]nd.Array{a, nd.Of([]int8{1, 2}, 1, 2)}); return err },
		"nothing to join": func() error { _, err := nd.Concat(nil); return err },
	} {
		if bad() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
