package passes

import (
	"fmt"
	"strings"

	"github.com/onnx-lathe/lathe/graph"
)

// int16Bodies are the operators in 16-bit fixed point in standard operators,
// computed in float32: dequantise, compute, round half up, saturate. They use no
// operator whose form changed from opset 9 on. Products with powers of two are
// exact, so what a body gives differs from the specification (package fixed)
// only where a float32 sum rounds across a half.
//
// attributes are those of the call that the body passes on, with the opset from
// which the standard operator has them.
var int16Bodies = []struct {
	name, inputs string
	attributes   []bodyAttribute
	body         string
}{
	{"QuantizeInt16", "X, E", nil, power("scale", "E", true) + `
  v = Mul (X, scale)` + rounded},
	{"DequantizeInt16", "X, E", nil, power("scale", "E", false) + `
  x = Cast <to = 1> (X)
  Y = Mul (x, scale)`},
	{"RequantizeInt16", "X, S", nil, power("scale", "S", true) + `
  x = Cast <to = 1> (X)
  v = Mul (x, scale)` + rounded},
	{"ClipInt16", "X, L, H", nil, `
  x = Cast <to = 1> (X)
  l = Cast <to = 1> (L)
  h = Cast <to = 1> (H)
  above = Max (x, l)
  y = Min (above, h)
  Y = Cast <to = 5> (y)`},
	{"AddInt16", "A, B, E", nil, `
  i0 = Constant <value = int64[1] {0}> ()
  i1 = Constant <value = int64[1] {1}> ()
  i2 = Constant <value = int64[1] {2}> ()
  e0 = Gather <axis = 0> (E, i0)
  e1 = Gather <axis = 0> (E, i1)
  e2 = Gather <axis = 0> (E, i2)` + power("left_a", "e0", false) + power("left_b", "e1", false) + power("scale", "e2", true) + `
  a = Cast <to = 1> (A)
  b = Cast <to = 1> (B)
  a_wide = Mul (a, left_a)
  b_wide = Mul (b, left_b)
  sum = Add (a_wide, b_wide)
  v = Mul (sum, scale)` + rounded},
	{"MaxPoolInt16", "X", []bodyAttribute{{"auto_pad", "string", 1}, {"ceil_mode", "int", 10}, {"dilations", "ints", 10},
		{"kernel_shape", "ints", 1}, {"pads", "ints", 1}, {"storage_order", "int", 8}, {"strides", "ints", 1}}, `
  x = Cast <to = 1> (X)
  y = MaxPool <%[1]s> (x)
  Y = Cast <to = 5> (y)`},
	{"AveragePoolInt16", "X, L", []bodyAttribute{{"auto_pad", "string", 1}, {"ceil_mode", "int", 10}, {"count_include_pad", "int", 7}, {"dilations", "ints", 19},
		{"kernel_shape", "ints", 1}, {"pads", "ints", 1}, {"strides", "ints", 1}}, power("scale", "L", false) + `
  x = Cast <to = 1> (X)
  mean = AveragePool <%[1]s> (x)
  v = Mul (mean, scale)` + rounded},
	{"GlobalAveragePoolInt16", "X, L", nil, power("scale", "L", false) + `
  x = Cast <to = 1> (X)
  mean = GlobalAveragePool (x)
  v = Mul (mean, scale)` + rounded},
	{"MatMulInt16", "X, W, S, B", nil, power("scale", "S", true) + `
  w = Cast <to = 1> (W)
  w_t = Transpose <perm = [1, 0]> (w)
  w_scaled = Mul (w_t, scale)
  b = Cast <to = 1> (B)
  b_scaled = Mul (b, scale)
  x = Cast <to = 1> (X)
  p = MatMul (x, w_scaled)
  v = Add (p, b_scaled)` + rounded},
	{"ConvInt16", "X, W, S, B", []bodyAttribute{{"auto_pad", "string", 1}, {"dilations", "ints", 1}, {"group", "int", 1},
		{"kernel_shape", "ints", 1}, {"pads", "ints", 1}, {"strides", "ints", 1}}, power("scale", "S", true) + `
  w = Cast <to = 1> (W)
  w_shape = Shape (W)
  rows = Constant <value = int64[2] {0, -1}> ()
  column = Constant <value = int64[2] {-1, 1}> ()
  w_rows = Reshape (w, rows)
  scales = Reshape (scale, column)
  w_rows_scaled = Mul (w_rows, scales)
  w_scaled = Reshape (w_rows_scaled, w_shape)
  b = Cast <to = 1> (B)
  b_scaled = Mul (b, scale)
  x = Cast <to = 1> (X)
  v = Conv <%[1]s> (x, w_scaled, b_scaled)` + rounded},
	{"BlockCirculantMatMulInt16", "X, W, S, B, R, E, A", nil, circulantInt16Body},
	{"BlockCirculantConvInt16", "X, W, S, B, R, E, A", []bodyAttribute{{"auto_pad", "string", 1}, {"dilations", "ints", 1}, {"group", "int", 1},
		{"kernel_shape", "ints", 1}, {"pads", "ints", 1}, {"strides", "ints", 1}}, convInt16Body},
}

// bodyAttribute is an attribute that a body passes on.
type bodyAttribute struct {
	name, kind string
	since      int64
}

// power sets name to 2 to the power of the integers of from, or to their
// negatives.
func power(name, from string, negative bool) string {
	s := fmt.Sprintf("\n  %[1]s_two = Constant <value = float[1] {2}> ()\n  %[1]s_e = Cast <to = 1> (%[2]s)", name, from)
	if !negative {
		return s + fmt.Sprintf("\n  %[1]s = Pow (%[1]s_two, %[1]s_e)", name)
	}
	return s + fmt.Sprintf("\n  %[1]s_minus = Neg (%[1]s_e)\n  %[1]s = Pow (%[1]s_two, %[1]s_minus)", name)
}

// rounded gives Y = sat(⌊v + ½⌋).
const rounded = `
  half = Constant <value = float[1] {0.5}> ()
  low = Constant <value = float[1] {-32768}> ()
  high = Constant <value = float[1] {32767}> ()
  v_half = Add (v, half)
  v_floor = Floor (v_half)
  v_low = Max (v_floor, low)
  y = Min (v_low, high)
  Y = Cast <to = 5> (y)`

// circulantInt16Body is matMulBody with the spectra given instead of the
// weights, their two requantisations, twiddles of 15 bits (so that what should be
// 0 is), and no factor 1/b. A packed spectrum has
// the real part of frequency f at 2f and the imaginary part at 2f+1, but bin b/2
// at 1; the imaginary parts of the real bins are masked.
const circulantInt16Body = spectrumTables + `
  w = Cast <to = 1> (W)
  w_re = Gather <axis = 2> (w, at_re)
  w_odd = Gather <axis = 2> (w, at_im)
  w_im = Mul (w_odd, complex)
  re = Transpose <perm = [2, 1, 0]> (w_re)
  im = Transpose <perm = [2, 1, 0]> (w_im)
  minus_im = Neg (im)
  upper = Concat <axis = 2> (re, im)
  lower = Concat <axis = 2> (minus_im, re)
  spectra = Concat <axis = 1> (upper, lower)
` + spectrumScales + `
  shape_x = Shape (X)
  rank = Shape (shape_x)
  last = Sub (rank, i1)
%[2]s
  flat_shape = Concat <axis = 0> (im1, n)
  x = Cast <to = 1> (X)
  flat = Reshape (x, flat_shape)
  shape_flat = Shape (flat)
  T = Gather <axis = 0> (shape_flat, i0)
  qb = Mul (q, b)
  missing = Sub (qb, n)
  pad_shape = Concat <axis = 0> (T, missing)
  zeros = ConstantOfShape <value = float[1] {0}> (pad_shape)
  padded = Concat <axis = 1> (flat, zeros)

  blocks_shape = Concat <axis = 0> (im1, b)
  blocks = Reshape (padded, blocks_shape)
  x_wide = MatMul (blocks, forward)
  x_wide_shape = Concat <axis = 0> (im1, q, F2)
  x_wide3 = Reshape (x_wide, x_wide_shape)
  x_scaled = Mul (x_wide3, scale_x)
  x_half = Add (x_scaled, half_up)
  x_floor = Floor (x_half)
  x_low = Max (x_floor, low_hat)
  x_hat = Min (x_low, high16)
  x_hat_shape = Concat <axis = 0> (im1, q, i2, F)
  x_hat4 = Reshape (x_hat, x_hat_shape)
  x_planes = Transpose <perm = [3, 0, 2, 1]> (x_hat4)
  q2 = Add (q, q)
  x_rows_shape = Concat <axis = 0> (F, im1, q2)
  x_rows = Reshape (x_planes, x_rows_shape)
  y_rows = MatMul (x_rows, spectra)
  y_rows_shape = Concat <axis = 0> (F, im1, i2, p)
  y_rows4 = Reshape (y_rows, y_rows_shape)
  y_planes = Transpose <perm = [1, 3, 2, 0]> (y_rows4)
  y_partial = Mul (y_planes, scale_sum)
  y_sum = Add (y_partial, bias3)
  y_scaled = Mul (y_sum, scale3)
  y_half = Add (y_scaled, half_up)
  y_floor = Floor (y_half)
  y_low = Max (y_floor, minus_limit)
  y_int = Min (y_low, limit)
  y_hat_shape = Concat <axis = 0> (im1, F2)
  y_hat = Reshape (y_int, y_hat_shape)
  y_blocks = MatMul (y_hat, inverse)
  pb = Mul (p, b)
  y_flat_shape = Concat <axis = 0> (im1, pb)
  y_flat = Reshape (y_blocks, y_flat_shape)
  m = Shape (E)
%[3]s
  v = Mul (y_cut, scale_y)
  v_half = Add (v, half_up)
  v_floor = Floor (v_half)
  v_low = Max (v_floor, low16)
  v_int = Min (v_low, high16)
%[4]s
  y_shape = Concat <axis = 0> (lead, m)
  y_all = Reshape (v_int, y_shape)
  Y = Cast <to = 5> (y_all)`

// spectrumTables are the sizes of W [p, q, b, …], constants, the Fourier transform
// and its inverse as matrices of F real parts and F imaginary parts, and where the
// parts are in a packed spectrum.
const spectrumTables = `
  i0 = Constant <value = int64[1] {0}> ()
  i1 = Constant <value = int64[1] {1}> ()
  i2 = Constant <value = int64[1] {2}> ()
  im1 = Constant <value = int64[1] {-1}> ()
  row = Constant <value = int64[2] {1, -1}> ()
  column = Constant <value = int64[2] {-1, 1}> ()
  half_up = Constant <value = float[1] {0.5}> ()
  low16 = Constant <value = float[1] {-32768}> ()
  low_hat = Constant <value = float[1] {-32767}> ()
  high16 = Constant <value = float[1] {32767}> ()

  shape_w = Shape (W)
  p = Gather <axis = 0> (shape_w, i0)
  q = Gather <axis = 0> (shape_w, i1)
  b = Gather <axis = 0> (shape_w, i2)
  half = Div (b, i2)
  F = Add (half, i1)
  F2 = Add (F, F)

  ones_b = ConstantOfShape <value = int64[1] {1}> (b)
  nz_b = NonZero (ones_b)
  t = Reshape (nz_b, row)
  ones_f = ConstantOfShape <value = int64[1] {1}> (F)
  nz_f = NonZero (ones_f)
  nz_f_row = Reshape (nz_f, im1)
  f = Reshape (nz_f, column)
  ft = Mul (f, t)
  ft_turns = Div (ft, b)
  ft_whole = Mul (ft_turns, b)
  ft_mod = Sub (ft, ft_whole)
  ft_float = Cast <to = 1> (ft_mod)
  b_float = Cast <to = 1> (b)
  tau = Constant <value = float[1] {6.2831853}> ()
  step = Div (tau, b_float)
  angle = Mul (ft_float, step)
  cos = Cos (angle)
  sin = Sin (angle)
  cos_and_sin = Concat <axis = 0> (cos, sin)
  two15 = Constant <value = float[1] {32768}> ()
  twiddles = Mul (cos_and_sin, two15)
  twiddles_half = Add (twiddles, half_up)
  twiddles_floor = Floor (twiddles_half)
  tables = Div (twiddles_floor, two15)
  at_sin = Add (nz_f_row, F)
  C = Gather <axis = 0> (tables, nz_f_row)
  S_f = Gather <axis = 0> (tables, at_sin)
  minus_S = Neg (S_f)

  f_twice = Mul (f, i2)
  f_twice_turns = Div (f_twice, b)
  f_twice_whole = Mul (f_twice_turns, b)
  is_real = Equal (f_twice, f_twice_whole)
  is_real_float = Cast <to = 1> (is_real)
  two = Constant <value = float[1] {2}> ()
  weight = Sub (two, is_real_float)
  inverse_re = Mul (C, weight)
  inverse_im = Mul (minus_S, weight)
  inverse = Concat <axis = 0> (inverse_re, inverse_im)
  forward_rows = Concat <axis = 0> (C, minus_S)
  forward = Transpose <perm = [1, 0]> (forward_rows)

  at_even = Reshape (f_twice, im1)
  is_last = Equal (at_even, b)
  is_last_int = Cast <to = 7> (is_last)
  b_less = Sub (b, i1)
  back = Mul (is_last_int, b_less)
  at_re = Sub (at_even, back)
  at_odd = Add (at_even, i1)
  back_odd = Mul (is_last_int, b)
  at_im = Sub (at_odd, back_odd)
  real_row = Reshape (is_real_float, im1)
  one = Constant <value = float[1] {1}> ()
  complex = Sub (one, real_row)`

// spectrumScales are the bias and the factors of sums, spectra and outputs, in the
// order of the tables.
const spectrumScales = `  bias = Cast <to = 1> (B)
  bias_re = Gather <axis = 1> (bias, at_re)
  bias_odd = Gather <axis = 1> (bias, at_im)
  bias_im = Mul (bias_odd, complex)
  bias_shape = Concat <axis = 0> (p, i1, F)
  bias_re3 = Reshape (bias_re, bias_shape)
  bias_im3 = Reshape (bias_im, bias_shape)
  bias3 = Concat <axis = 1> (bias_re3, bias_im3)
  at_flat = Reshape (nz_f_row, im1)
  is_first = Equal (at_flat, i0)
  is_first_int = Cast <to = 7> (is_first)
  is_end = Equal (at_flat, half)
  is_end_int = Cast <to = 7> (is_end)
  at_next = Add (at_flat, i1)
  at_less = Sub (at_next, is_first_int)
  end_back = Mul (is_end_int, half)
  at_bin = Sub (at_less, end_back)
  shift = Cast <to = 1> (S)
  shift_bins = Gather <axis = 1> (shift, at_bin)
  minus_shift = Neg (shift_bins)
  scale = Pow (two, minus_shift)
  scale_shape = Concat <axis = 0> (p, i1, F)
  scale3 = Reshape (scale, scale_shape)
  partial = Gather <axis = 0> (A, i1)
  partial_float = Cast <to = 1> (partial)
  minus_partial = Neg (partial_float)
  scale_sum = Pow (two, minus_partial)
  r_float = Cast <to = 1> (R)
  r_bins = Gather <axis = 1> (r_float, at_bin)
  minus_r = Neg (r_bins)
  scale_f = Pow (two, minus_r)
  scale_x = Concat <axis = 1> (scale_f, scale_f)
  e_float = Cast <to = 1> (E)
  minus_e = Neg (e_float)
  scale_y = Pow (two, minus_e)
  most = Constant <value = float[1] {8388608}> ()
  long = Constant <value = float[1] {63}> ()
  three = Constant <value = float[1] {3}> ()
  is_long = Greater (b_float, long)
  is_long_float = Cast <to = 1> (is_long)
  more = Mul (is_long_float, three)
  times = Add (more, one)
  most_here = Mul (most, times)
  limit = Div (most_here, b_float)
  minus_limit = Neg (limit)`

// convInt16Body has the spectra of pixels as channels, 2F for every block, and
// sums their products over the window by a convolution with the matrices
//
//	[Re −Im; Im Re]·δ(f, f′)    [p, 2, F, q, 2, F′, taps]
//
// of complex products, which has zeros between different frequencies: in exchange
// for products with them, (1 + 2/b)² of those of a dense layer, the frequencies need
// not be groups, and spectra are rounded where the specification does. The groups that
// there are, G, are told by the rows of R; channels and outputs are padded and cut
// group by group.
const convInt16Body = spectrumTables + `
  i3 = Constant <value = int64[1] {3}> ()
  w = Cast <to = 1> (W)
  w_flat_shape = Concat <axis = 0> (p, q, b, im1)
  w_flat = Reshape (w, w_flat_shape)
  w_re = Gather <axis = 2> (w_flat, at_re)
  w_odd = Gather <axis = 2> (w_flat, at_im)
  complex_column = Reshape (complex, column)
  w_im = Mul (w_odd, complex_column)
  re = Transpose <perm = [0, 2, 1, 3]> (w_re)
  im = Transpose <perm = [0, 2, 1, 3]> (w_im)
  w_wide_shape = Concat <axis = 0> (p, i1, F, q, i1, i1, im1)
  re_wide = Reshape (re, w_wide_shape)
  im_wide = Reshape (im, w_wide_shape)
  nz_f_flat = Reshape (nz_f, row)
  f_apart = Sub (f, nz_f_flat)
  f_apart_float = Cast <to = 1> (f_apart)
  f_apart_size = Abs (f_apart_float)
  f_apart_one = Min (f_apart_size, one)
  f_equal = Sub (one, f_apart_one)
  f_equal_shape = Concat <axis = 0> (i1, i1, F, i1, i1, F, i1)
  mask = Reshape (f_equal, f_equal_shape)
  re_diagonal = Mul (re_wide, mask)
  im_diagonal = Mul (im_wide, mask)
  minus_im = Neg (im_diagonal)
  to_re = Concat <axis = 4> (re_diagonal, minus_im)
  to_im = Concat <axis = 4> (im_diagonal, re_diagonal)
  products = Concat <axis = 1> (to_re, to_im)
%[2]s
  p_wide = Mul (p, F2)
  q_wide = Mul (q, F2)
  shape_r = Shape (R)
  q_all = Gather <axis = 0> (shape_r, i0)
  q_all_wide = Mul (q_all, F2)
  G = Div (q_all, q)
  kernel_shape = Concat <axis = 0> (p_wide, q_wide, kernel)
  spectra = Reshape (products, kernel_shape)
` + spectrumScales + `
  shape_x = Shape (X)
  samples = Gather <axis = 0> (shape_x, i0)
  channels = Gather <axis = 0> (shape_x, i1)
  group_channels = Div (channels, G)
  pixels_shape = Concat <axis = 0> (samples, G, group_channels, im1)
  x = Cast <to = 1> (X)
  x_pixels = Reshape (x, pixels_shape)
  shape_pixels = Shape (x_pixels)
  pixels = Gather <axis = 0> (shape_pixels, i3)
  qb = Mul (q, b)
  missing = Sub (qb, group_channels)
  pad_shape = Concat <axis = 0> (samples, G, missing, pixels)
  zeros = ConstantOfShape <value = float[1] {0}> (pad_shape)
  padded = Concat <axis = 2> (x_pixels, zeros)
  blocks_shape = Concat <axis = 0> (im1, b, pixels)
  blocks = Reshape (padded, blocks_shape)
  x_wide = MatMul (forward_rows, blocks)
  x_wide_shape = Concat <axis = 0> (samples, q_all_wide, pixels)
  x_wide3 = Reshape (x_wide, x_wide_shape)
  scale_x_column = Reshape (scale_x, column)
  x_scaled = Mul (x_wide3, scale_x_column)
  x_half = Add (x_scaled, half_up)
  x_floor = Floor (x_half)
  x_low = Max (x_floor, low_hat)
  x_hat = Min (x_low, high16)
  x_image_shape = Concat <axis = 0> (samples, q_all_wide, spatial)
  x_image = Reshape (x_hat, x_image_shape)
  y_image = Conv <%[1]s> (x_image, spectra)
  shape_y = Shape (y_image)
%[4]s
  y_shape = Concat <axis = 0> (samples, p_wide, im1)
  y_planes = Reshape (y_image, y_shape)
  y_partial = Mul (y_planes, scale_sum)
  bias_column = Reshape (bias3, column)
  y_sum = Add (y_partial, bias_column)
  scale_twice = Concat <axis = 1> (scale3, scale3)
  scale_column = Reshape (scale_twice, column)
  y_scaled = Mul (y_sum, scale_column)
  y_half = Add (y_scaled, half_up)
  y_floor = Floor (y_half)
  y_low = Max (y_floor, minus_limit)
  y_int = Min (y_low, limit)
  shape_planes = Shape (y_planes)
  outputs = Gather <axis = 0> (shape_planes, i2)
  y_hat_shape = Concat <axis = 0> (im1, F2, outputs)
  y_hat = Reshape (y_int, y_hat_shape)
  inverse_rows = Transpose <perm = [1, 0]> (inverse)
  y_blocks = MatMul (inverse_rows, y_hat)
  pb = Mul (p, b)
  group_rows = Div (pb, G)
  y_groups_shape = Concat <axis = 0> (samples, G, group_rows, outputs)
  y_groups = Reshape (y_blocks, y_groups_shape)
  m = Shape (E)
  group_m = Div (m, G)
%[3]s
  y_flat_shape = Concat <axis = 0> (samples, m, outputs)
  y_cut = Reshape (y_kept, y_flat_shape)
  scale_y_column = Reshape (scale_y, column)
  v = Mul (y_cut, scale_y_column)
  v_half = Add (v, half_up)
  v_floor = Floor (v_half)
  v_low = Max (v_floor, low16)
  v_int = Min (v_low, high16)
  y_all_shape = Concat <axis = 0> (samples, m, spatial_y)
  y_all = Reshape (v_int, y_all_shape)
  Y = Cast <to = 5> (y_all)`

// int16Function returns the function of that name for models of that opset.
func int16Function(name string, opset int64) (*graph.Function, error) {
	if opset < minBodyOpset {
		return nil, fmt.Errorf("the body of %s needs opset %d, the model has %d; upgrade the model first", name, minBodyOpset, opset)
	}
	for _, f := range int16Bodies {
		if f.name != name {
			continue
		}
		var names, passed []string
		for _, a := range f.attributes {
			if a.since <= opset {
				names = append(names, a.name)
				passed = append(passed, fmt.Sprintf("%s: %s = @%s", a.name, a.kind, a.name))
			}
		}
		n, cut, lead := sliceForms(opset)
		switch name {
		case "BlockCirculantMatMulInt16":
			names = []string{"rounding"}
		case "BlockCirculantConvInt16":
			names = append(names, "rounding")
			n, cut, lead = windowForms(opset)
		}
		heads := ""
		if len(names) > 0 {
			heads = " <" + strings.Join(names, ", ") + ">"
		}
		body := strings.NewReplacer("%[1]s", strings.Join(passed, ", "), "%[2]s", n, "%[3]s", cut, "%[4]s", lead).Replace(f.body)
		text := fmt.Sprintf("<ir_version: 8, opset_import: [\"\": 17]>\nnone () => () {}\n<\n  domain: \"lathe\",\n  opset_import: [\"\": %d]\n>\n%s%s (%s) => (Y)\n{%s\n}\n",
			opset, name, heads, f.inputs, body)
		m, err := graph.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("body of %s: %w", name, err)
		}
		return m.Functions[0], nil
	}
	return nil, fmt.Errorf("no operator %s", name)
}

// sliceForms are the cuts of the block-circulant body, of the sizes n and lead
// of the input and of the columns of the result, in the form of the opset:
// before opset 10 Slice takes its bounds as attributes, and Gather with
// positions counted by NonZero stands for it.
func sliceForms(opset int64) (n, cut, lead string) {
	if opset >= 10 {
		return "  n = Slice (shape_x, last, rank, i0)", "  y_cut = Slice (y_flat, i0, m, i1)", "  lead = Slice (shape_x, i0, last, i0)"
	}
	return "  n = Gather <axis = 0> (shape_x, last)", `  ones_m = ConstantOfShape <value = int64[1] {1}> (m)
  nz_m = NonZero (ones_m)
  at_m = Reshape (nz_m, im1)
  y_cut = Gather <axis = 1> (y_flat, at_m)`, `  ones_lead = ConstantOfShape <value = int64[1] {1}> (last)
  nz_lead = NonZero (ones_lead)
  at_lead = Reshape (nz_lead, im1)
  lead = Gather <axis = 0> (shape_x, at_lead)`
}

// windowForms are, for the convolution, the sizes of the kernel and of X along the
// window's axes, the columns of the result that are kept, and the sizes of the
// result along the window's axes.
func windowForms(opset int64) (sizes, cut, out string) {
	if opset >= 10 {
		return `  rank_w = Shape (shape_w)
  kernel = Slice (shape_w, i3, rank_w, i0)
  dims_of_x = Shape (X)
  rank_x = Shape (dims_of_x)
  spatial = Slice (dims_of_x, i2, rank_x, i0)`, "  y_kept = Slice (y_groups, i0, group_m, i2)", "  rank_y = Shape (shape_y)\n  spatial_y = Slice (shape_y, i2, rank_y, i0)"
	}
	return `  rank_w = Shape (shape_w)
  axes = Sub (rank_w, i3)
  ones_axes = ConstantOfShape <value = int64[1] {1}> (axes)
  nz_axes = NonZero (ones_axes)
  nth_axis = Reshape (nz_axes, im1)
  at_kernel = Add (nth_axis, i3)
  kernel = Gather <axis = 0> (shape_w, at_kernel)
  at_spatial = Add (nth_axis, i2)
  dims_of_x = Shape (X)
  spatial = Gather <axis = 0> (dims_of_x, at_spatial)`, `  ones_m = ConstantOfShape <value = int64[1] {1}> (group_m)
  nz_m = NonZero (ones_m)
  at_m = Reshape (nz_m, im1)
  y_kept = Gather <axis = 2> (y_groups, at_m)`, "  spatial_y = Gather <axis = 0> (shape_y, at_spatial)"
}
