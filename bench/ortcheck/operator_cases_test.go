package ortcheck

import "strings"

// operatorCases are the nodes of TestOperatorsAgree.
func operatorCases() []operatorCase {
	const ms = "com.microsoft."
	in := func(list ...string) []string { return list }
	var out []operatorCase
	add := func(c ...operatorCase) { out = append(out, c...) }

	// Activations and norms.
	x := "x: float[2,5,24]"
	add(
		operatorCase{op: ms + "Gelu", inputs: in(x), outputs: "y"},
		operatorCase{op: ms + "BiasGelu", inputs: in(x, "b: float[24]"), outputs: "y"},
		operatorCase{op: ms + "FastGelu", inputs: in(x), outputs: "y"},
		operatorCase{op: ms + "FastGelu", inputs: in(x, "b: float[24]"), outputs: "y"},
		operatorCase{op: ms + "QuickGelu", inputs: in(x), outputs: "y"},
		operatorCase{op: ms + "QuickGelu", attrs: "alpha = 0.7", inputs: in(x), outputs: "y"},
	)
	for _, skip := range []string{"s: float[2,5,24]", "s: float[1,5,24]", "s: float[5,24]"} {
		g, b := "g: float[24]", "b: float[24]"
		add(
			operatorCase{op: ms + "SkipLayerNormalization", inputs: in(x, skip, g), outputs: "y"},
			operatorCase{op: ms + "SkipLayerNormalization", attrs: "epsilon = 0.1", inputs: in(x, skip, g, b), outputs: "y _ _ sum"},
			operatorCase{op: ms + "SkipLayerNormalization", attrs: "epsilon = 0.001", inputs: in(x, skip, g, b, "c: float[24]"), outputs: "y _ _ sum"},
			operatorCase{op: ms + "SkipLayerNormalization", inputs: in(x, skip, g, "", "c: float[24]"), outputs: "y"},
			operatorCase{op: ms + "SkipSimplifiedLayerNormalization", attrs: "epsilon = 0.1", inputs: in(x, skip, g), outputs: "y"},
			operatorCase{op: ms + "SkipSimplifiedLayerNormalization", attrs: "epsilon = 0.001", inputs: in(x, skip, g, "c: float[24]"), outputs: "y _ _ sum"},
		)
	}
	add(
		operatorCase{op: ms + "SkipLayerNormalization", inputs: in("x: float[5,24]", "s: float[5,24]", "g: float[24]", "b: float[24]"), outputs: "y"},
		operatorCase{op: "SimplifiedLayerNormalization", attrs: "axis = -1, epsilon = 0.01", inputs: in(x, "g: float[24]"), outputs: "y"},
	)
	words := in("ids: int32[2,5]", "seg: int32[2,5]", "w: float[7,24]", "p: float[9,24]", "e: float[2,24]", "g: float[24]", "b: float[24]")
	none := in("ids: int32[2,5]", "", "w: float[7,24]", "p: float[9,24]", "", "g: float[24]", "b: float[24]")
	add(
		operatorCase{op: ms + "EmbedLayerNormalization", inputs: words, outputs: "y index:int32"},
		operatorCase{op: ms + "EmbedLayerNormalization", attrs: "epsilon = 0.01", inputs: append(in(words...), "m: int32[2,5]"), outputs: "y index:int32"},
		operatorCase{op: ms + "EmbedLayerNormalization", inputs: append(in(none...), "", "at: int32[2,5]"), outputs: "y index:int32 sum"},
		operatorCase{op: ms + "EmbedLayerNormalization", inputs: append(in(none...), "", "at: int32[1,5]"), outputs: "y _ sum"},
	)

	// Products.
	add(
		operatorCase{op: ms + "FusedMatMul", attrs: "alpha = 0.5", inputs: in("a: float[2,3,4]", "b: float[2,4,5]"), outputs: "y"},
		operatorCase{op: ms + "FusedMatMul", attrs: "transA = 1", inputs: in("a: float[2,4,3]", "b: float[4,5]"), outputs: "y"},
		operatorCase{op: ms + "FusedMatMul", attrs: "transB = 1, alpha = 2.0", inputs: in("a: float[2,3,4]", "b: float[2,5,4]"), outputs: "y"},
		operatorCase{op: ms + "FusedMatMul", attrs: "transA = 1, transB = 1", inputs: in("a: float[4,3]", "b: float[5,4]"), outputs: "y"},
		operatorCase{op: ms + "FusedMatMul", attrs: "transBatchA = 1", inputs: in("a: float[3,2,6,4]", "b: float[2,6,4,5]"), outputs: "y"},
		operatorCase{op: ms + "FusedMatMul", attrs: "transBatchA = 1, transBatchB = 1, transB = 1", inputs: in("a: float[3,2,4]", "b: float[5,2,4]"), outputs: "y"},
		operatorCase{op: ms + "TransposeMatMul", attrs: "transB = 1", inputs: in("a: float[2,3,4]", "b: float[2,5,4]"), outputs: "y"},
	)
	for _, act := range []string{`"Relu"`, `"Tanh"`, `"Sigmoid"`, `"LeakyRelu", activation_alpha = 0.2`, `"Elu", activation_alpha = 0.7`,
		`"HardSigmoid", activation_alpha = 0.3, activation_beta = 0.4`, `"Softplus"`, `"Softsign"`} {
		add(operatorCase{op: ms + "FusedGemm", attrs: "transB = 1, beta = 0.5, activation = " + act,
			inputs: in("a: float[3,4]", "b: float[5,4]", "c: float[5]"), outputs: "y"})
	}
	for _, act := range []string{`"Relu"`, `"Tanh"`, `"Sigmoid"`, `"LeakyRelu", activation_params = [0.2]`, `"Clip", activation_params = [-0.5, 0.75]`, `"HardSigmoid", activation_params = [0.3, 0.4]`} {
		add(operatorCase{op: ms + "FusedConv", attrs: "kernel_shape = [3, 3], pads = [1, 1, 1, 1], activation = " + act,
			inputs: in("a: float[2,4,6,7]", "w: float[8,4,3,3]", "b: float[8]"), outputs: "y"})
	}
	add(operatorCase{op: ms + "FusedConv", attrs: `kernel_shape = [3, 3], pads = [1, 1, 1, 1], activation = "Relu"`,
		inputs: in("a: float[2,4,6,7]", "w: float[8,4,3,3]", "b: float[8]", "z: float[2,8,6,7]"), outputs: "y"})
	add(
		operatorCase{op: ms + "DynamicQuantizeMatMul", inputs: in("a: float[2,3,16]", "b: int8[16,5]", "s: float[1]"), outputs: "y", close: 1e-4},
		operatorCase{op: ms + "DynamicQuantizeMatMul", inputs: in("a: float[2,3,16]", "b: uint8[16,5]", "s: float[5]", "z: uint8[5]", "c: float[5]"), outputs: "y", close: 1e-4},
		operatorCase{op: ms + "MatMulIntegerToFloat", inputs: in("a: uint8[2,3,16]", "b: int8[16,5]", "s: float[1]", "r: float[5]"), outputs: "y"},
		operatorCase{op: ms + "MatMulIntegerToFloat", inputs: in("a: uint8[2,3,16]", "b: uint8[16,5]", "s: float[1]", "r: float[1]", "za: uint8[1]", "zb: uint8[1]", "c: float[5]"), outputs: "y"},
		operatorCase{op: ms + "QuantizeLinear", inputs: in("a: float[3,4]", "s: float", "z: uint8"), outputs: "y:uint8", values: map[string]any{"s": []float32{0.01}}},
		operatorCase{op: ms + "DequantizeLinear", attrs: "axis = 0", inputs: in("a: uint8[3,4]", "s: float[3]", "z: uint8[3]"), outputs: "y"},
	)
	for _, size := range []string{"16", "32"} {
		blocks, half := "3", "8"
		if size == "32" {
			blocks, half = "2", "16"
		}
		attrs := "K = 40, N = 6, bits = 4, block_size = " + size
		scales := map[string]string{"16": "18", "32": "12"}[size]
		add(
			operatorCase{op: ms + "MatMulNBits", attrs: attrs, inputs: in("a: float[2,3,40]", "b: uint8[6,"+blocks+","+half+"]", "s: float["+scales+"]"), outputs: "y"},
			operatorCase{op: ms + "MatMulNBits", attrs: attrs, inputs: in("a: float[2,3,40]", "b: uint8[6,"+blocks+","+half+"]", "s: float["+scales+"]",
				"z: uint8["+map[string]string{"16": "12", "32": "6"}[size]+"]"), outputs: "y"},
			operatorCase{op: ms + "MatMulNBits", attrs: attrs, inputs: in("a: float[2,3,40]", "b: uint8[6,"+blocks+","+half+"]", "s: float["+scales+"]", "", "", "c: float[6]"), outputs: "y"},
		)
	}
	add(operatorCase{op: ms + "MatMulNBits", attrs: "K = 40, N = 6, bits = 8, block_size = 32", inputs: in("a: float[2,3,40]", "b: uint8[6,2,32]", "s: float[12]"), outputs: "y"})

	// Rotation.
	for _, inter := range []string{"", "interleaved = 1"} {
		join := func(a string) string {
			if inter == "" {
				return a
			}
			return inter + ", " + a
		}
		tables := in("c: float[20,4]", "s: float[20,4]")
		add(
			operatorCase{op: ms + "RotaryEmbedding", attrs: inter, inputs: append(in("x: float[2,3,24]", "at: int64[1]"), tables...), outputs: "y", values: map[string]any{"at": []int64{5}}},
			operatorCase{op: ms + "RotaryEmbedding", attrs: inter, inputs: append(in("x: float[2,3,24]", "at: int64[2,3]"), tables...), outputs: "y", values: map[string]any{"at": []int64{0, 5, 3, 19, 2, 2}}},
			operatorCase{op: ms + "RotaryEmbedding", attrs: inter, inputs: append(in("x: float[2,5,3,8]", "at: int64[1]"), tables...), outputs: "y", values: map[string]any{"at": []int64{0}}},
			operatorCase{op: ms + "RotaryEmbedding", attrs: join("num_heads = 2, rotary_embedding_dim = 8"), inputs: append(in("x: float[2,3,24]", "at: int64[1]"), tables...), outputs: "y", values: map[string]any{"at": []int64{5}}},
			operatorCase{op: "RotaryEmbedding", opset: 23, attrs: inter, inputs: append(append(in("x: float[2,5,3,8]"), tables...), "at: int64[2,3]"), outputs: "y", values: map[string]any{"at": []int64{0, 5, 3, 19, 2, 2}}},
			operatorCase{op: "RotaryEmbedding", opset: 23, attrs: join("num_heads = 3"), inputs: in("x: float[2,3,24]", "c: float[2,3,4]", "s: float[2,3,4]"), outputs: "y"},
			operatorCase{op: "RotaryEmbedding", opset: 23, attrs: join("num_heads = 2, rotary_embedding_dim = 8"), inputs: append(append(in("x: float[2,3,24]"), tables...), "at: int64[2,3]"), outputs: "y", values: map[string]any{"at": []int64{0, 5, 3, 19, 2, 2}}},
		)
	}

	// Attention over its own input.
	masks := []string{"", "m: int32[2]", "m: int32[4]", "m: int32[2,5]", "m: int32[2,5,5]"}
	ends := map[string]any{"m: int32[2]": []int32{3, 5}, "m: int32[4]": []int32{4, 5, 1, 0}}
	for _, attrs := range []string{"num_heads = 3", "num_heads = 3, unidirectional = 1", "num_heads = 3, scale = 0.5, mask_filter_value = -50.0"} {
		for _, m := range masks {
			c := operatorCase{op: ms + "Attention", attrs: attrs, inputs: in(x, "w: float[24,36]", "b: float[36]", m), outputs: "y"}
			if v := ends[m]; v != nil {
				c.values = map[string]any{"m": v}
			}
			add(c)
		}
		add(
			operatorCase{op: ms + "Attention", attrs: attrs, inputs: in(x, "w: float[24,36]", "b: float[36]"), outputs: "y present"},
			operatorCase{op: ms + "Attention", attrs: attrs, inputs: in(x, "w: float[24,36]", "b: float[36]", "", "past: float[2,2,3,4,4]"), outputs: "y present"},
			operatorCase{op: ms + "Attention", attrs: attrs, inputs: in(x, "w: float[24,36]", "b: float[36]", "m: int32[2,9]", "past: float[2,2,3,4,4]"), outputs: "y present"},
			operatorCase{op: ms + "Attention", attrs: attrs, inputs: in(x, "w: float[24,36]", "b: float[36]", "", "", "bias: float[2,3,5,5]"), outputs: "y"},
			operatorCase{op: ms + "Attention", attrs: attrs, inputs: in(x, "w: float[24,36]", "b: float[36]", "m: int32[2,5]", "", "bias: float[1,1,5,5]"), outputs: "y"},
			operatorCase{op: ms + "Attention", attrs: attrs + ", qkv_hidden_sizes = [12, 12, 18]", inputs: in(x, "w: float[24,42]", "b: float[42]"), outputs: "y"},
		)
	}
	for _, m := range []string{"", "m: int32[2,5]"} {
		q := in("x: uint8[2,5,24]", "w: int8[24,36]", "b: float[36]", "sx: float", "sw: float", m, "zx: uint8", "zw: int8")
		v := map[string]any{"sx": []float32{0.02}, "sw": []float32{0.01}}
		add(
			operatorCase{op: ms + "QAttention", attrs: "num_heads = 3", inputs: q, outputs: "y", values: v, close: 1e-4},
			operatorCase{op: ms + "QAttention", attrs: "num_heads = 3, unidirectional = 1", inputs: q, outputs: "y", values: v, close: 1e-4},
		)
	}

	// Attention of queries, keys and values.
	for _, attrs := range []string{"num_heads = 3", "num_heads = 3, unidirectional = 1", "num_heads = 3, scale = 0.5, mask_filter_value = -50.0"} {
		q, k, v := "q: float[2,5,24]", "k: float[2,5,24]", "v: float[2,5,12]"
		mha := func(outputs string, values map[string]any, inputs ...string) {
			add(operatorCase{op: ms + "MultiHeadAttention", attrs: attrs, inputs: inputs, outputs: outputs, values: values})
		}
		mha("y", nil, q, k, v)
		mha("y", nil, q, k, v, "b: float[60]")
		mha("y", map[string]any{"m": []int32{3, 5}}, q, k, v, "", "m: int32[2]")
		mha("y", nil, q, k, v, "", "m: int32[2,5]")
		mha("y", nil, q, k, v, "", "m: int32[2,5,5]")
		mha("y", nil, q, k, v, "", "", "bias: float[1,3,5,5]")
		mha("y", nil, q, k, v, "b: float[60]", "m: int32[2,5]", "bias: float[2,1,5,5]")
		mha("y pk pv", nil, q, k, v)
		mha("y pk pv", nil, q, k, "v: float[2,5,24]", "", "", "", "k0: float[2,3,4,8]", "v0: float[2,3,4,8]")
		mha("y pk pv", nil, q, k, "v: float[2,5,24]", "b: float[72]", "m: int32[2,9]", "bias: float[2,3,5,9]", "k0: float[2,3,4,8]", "v0: float[2,3,4,8]")
		if attrs != "num_heads = 3, unidirectional = 1" {
			mha("y", nil, q, "k: float[2,7,24]", "v: float[2,7,12]")
			mha("y", nil, q, "k: float[2,3,7,8]", "v: float[2,3,7,8]")
			mha("y", nil, q, "k: float[2,7,24]", "v: float[2,7,12]", "", "m: int32[2,7]")
		}
	}

	// Grouped queries.
	i32 := func(v ...int32) []int32 { return v }
	for _, attrs := range []string{"num_heads = 4, kv_num_heads = 2", "num_heads = 4, kv_num_heads = 2, scale = 0.7, softcap = 5.0",
		"num_heads = 4, kv_num_heads = 2, local_window_size = 3", "num_heads = 4, kv_num_heads = 2, smooth_softmax = 1"} {
		gqa := func(more string, lens []int32, total int32, values map[string]any, inputs ...string) {
			if values == nil {
				values = map[string]any{}
			}
			values["lens"], values["total"] = lens, i32(total)
			add(operatorCase{op: ms + "GroupQueryAttention", attrs: attrs + more, inputs: inputs, outputs: "y pk pv", values: values})
		}
		q, k, v, lens, total := "q: float[2,5,64]", "k: float[2,5,32]", "v: float[2,5,32]", "lens: int32[2]", "total: int32[1]"
		cos, sin := "c: float[40,8]", "s: float[40,8]"
		gqa("", i32(4, 4), 5, nil, q, k, v, "", "", lens, total)
		gqa("", i32(4, 4), 5, nil, "qkv: float[2,5,128]", "", "", "", "", lens, total)
		gqa(", do_rotary = 1", i32(4, 4), 5, nil, q, k, v, "", "", lens, total, cos, sin)
		gqa(", do_rotary = 1, rotary_interleaved = 1", i32(4, 4), 5, nil, "qkv: float[2,5,128]", "", "", "", "", lens, total, cos, sin)
		// one token behind a past that fits, has room, and differs by sample
		q1, k1, v1 := "q: float[2,1,64]", "k: float[2,1,32]", "v: float[2,1,32]"
		k0, v0 := "k0: float[2,2,6,16]", "v0: float[2,2,6,16]"
		gqa("", i32(6, 6), 7, nil, q1, k1, v1, k0, v0, lens, total)
		gqa("", i32(6, 4), 7, nil, q1, k1, v1, k0, v0, lens, total)
		gqa("", i32(4, 3), 5, nil, q1, k1, v1, k0, v0, lens, total)
		gqa(", do_rotary = 1", i32(6, 4), 7, nil, q1, k1, v1, k0, v0, lens, total, cos, sin)
		gqa(", do_rotary = 1", i32(6, 4), 7, nil, "qkv: float[2,1,128]", "", "", k0, v0, lens, total, cos, sin)
		gqa("", i32(6, 4), 7, nil, q1, k1, v1, k0, v0, lens, total, "", "", "", "bias: float[2,4,1,7]")
		gqa("", i32(4, 4), 5, nil, q, k, v, "", "", lens, total, "", "", "", "bias: float[1,1,5,5]")
		// several tokens behind a past
		gqa(", do_rotary = 1", i32(10), 11, nil, "q: float[1,5,64]", "k: float[1,5,32]", "v: float[1,5,32]", "k0: float[1,2,6,16]", "v0: float[1,2,6,16]", "lens: int32[1]", total, cos, sin)
	}
	add(operatorCase{op: ms + "GroupQueryAttention", attrs: "num_heads = 4, kv_num_heads = 2", outputs: "y pk pv",
		inputs: in("q: float[2,5,64]", "k: float[2,5,32]", "v: float[2,5,32]", "", "", "lens: int32[2]", "total: int32[1]", "", "", "", "", "sink: float[4]"),
		values: map[string]any{"lens": i32(4, 4), "total": i32(5)}})

	// ONNX's own attention: queries of 4 heads on 2 of keys, by heads and by
	// tokens, masks of both kinds, a past, every stage of the scores.
	for _, opset := range []int{23, 24} {
		attention := func(attrs, outputs string, values map[string]any, inputs ...string) {
			add(operatorCase{op: "Attention", opset: opset, attrs: attrs, inputs: inputs, outputs: outputs, values: values})
		}
		q, k, v := "q: float[2,4,5,8]", "k: float[2,2,7,8]", "v: float[2,2,7,6]"
		k0, v0 := "k0: float[2,2,3,8]", "v0: float[2,2,3,6]"
		byTokens := ", q_num_heads = 4, kv_num_heads = 2"
		for _, attrs := range []string{"scale = 0.3", "is_causal = 1", "softcap = 2.0", "is_causal = 1, softcap = 1.5", "softmax_precision = 1"} {
			attention(attrs, "y", nil, q, k, v)
			attention(attrs+byTokens, "y", nil, "q: float[2,5,32]", "k: float[2,7,16]", "v: float[2,7,12]")
			for _, mask := range []string{"m: float[5,7]", "m: bool[5,7]", "m: float[2,4,5,7]", "m: float[2,1,5,7]", "m: float[1,4,5,7]", "m: float[1,1,5,7]"} {
				values := map[string]any{}
				if mask == "m: bool[5,7]" {
					keep := make([]bool, 35)
					for i := range keep {
						keep[i] = i%3 != 1 || i%7 == 0
					}
					values["m"] = keep
				}
				attention(attrs, "y", values, q, k, v, mask)
			}
			none := make([]bool, 35)
			for i := range none {
				none[i] = i/7 != 2
			}
			attention(attrs, "y", map[string]any{"m": none}, q, k, v, "m: bool[5,7]") // one query sees no key
			attention(attrs, "y pk pv", nil, q, k, v, "", k0, v0)
			attention(attrs, "y pk pv", nil, q, k, v, "m: float[2,1,5,10]", k0, v0)
			attention(attrs+byTokens, "y pk pv", nil, "q: float[2,5,32]", "k: float[2,7,16]", "v: float[2,7,12]", "m: float[5,10]", k0, v0)
			for _, mode := range []string{"0", "1", "2", "3"} {
				if mode == "2" && strings.Contains(attrs, "is_causal") {
					continue // ONNX says −∞ where a key is hidden, ONNX Runtime the lowest float
				}
				attention(attrs+", qk_matmul_output_mode = "+mode, "y _ _ qk", nil, q, k, v, "m: float[5,7]")
				attention(attrs+", qk_matmul_output_mode = "+mode, "y pk pv qk", nil, q, k, v, "m: float[2,1,5,10]", k0, v0)
			}
		}
		if opset > 23 {
			seen := map[string]any{"n": []int64{5, 7}}
			attention("is_causal = 1", "y", map[string]any{"n": []int64{2, 7}}, q, k, v, "", "", "", "n: int64[2]") // the first queries stand before all keys
			attention("scale = 0.3", "y", seen, q, k, v, "", "", "", "n: int64[2]")
			attention("is_causal = 1", "y", seen, q, k, v, "", "", "", "n: int64[2]")
			attention("is_causal = 1", "y", seen, q, k, v, "m: float[2,1,5,7]", "", "", "n: int64[2]")
			attention("is_causal = 1", "y", seen, "q: float[2,4,1,8]", k, v, "", "", "", "n: int64[2]")
		}
	}
	for _, mode := range []string{"linear", "circular"} {
		begin := map[string]any{"at": []int64{4, 1}}
		if mode == "circular" {
			begin = map[string]any{"at": []int64{5, 1}}
		}
		attrs := "mode = \"" + mode + "\""
		add(
			operatorCase{op: "TensorScatter", opset: 24, attrs: attrs, inputs: in("past: float[2,3,6,4]", "new: float[2,3,2,4]"), outputs: "y"},
			operatorCase{op: "TensorScatter", opset: 24, attrs: attrs, inputs: in("past: float[2,3,6,4]", "new: float[2,3,2,4]", "at: int64[2]"), outputs: "y", values: begin},
			operatorCase{op: "TensorScatter", opset: 24, attrs: attrs + ", axis = 1", inputs: in("past: float[2,6,4]", "new: float[2,2,4]", "at: int64[2]"), outputs: "y", values: begin},
		)
	}

	// Places that are computed.
	for _, corners := range []string{"", "align_corners = 1"} {
		add(
			operatorCase{op: "AffineGrid", opset: 20, attrs: corners, inputs: in("t: float[2,2,3]", "n: int64[4]"), outputs: "y", values: map[string]any{"n": []int64{2, 3, 4, 5}}},
			operatorCase{op: "AffineGrid", opset: 20, attrs: corners, inputs: in("t: float[2,3,4]", "n: int64[5]"), outputs: "y", values: map[string]any{"n": []int64{2, 3, 2, 4, 5}}},
		)
	}
	add(
		operatorCase{op: "Col2Im", opset: 18, inputs: in("x: float[2,12,12]", "s: int64[2]", "b: int64[2]"), outputs: "y", values: map[string]any{"s": []int64{5, 4}, "b": []int64{2, 2}}},
		operatorCase{op: "Col2Im", opset: 18, attrs: "strides = [2, 1], pads = [1, 0, 1, 2], dilations = [1, 2]", inputs: in("x: float[1,12,8]", "s: int64[2]", "b: int64[2]"), outputs: "y",
			values: map[string]any{"s": []int64{3, 4}, "b": []int64{3, 2}}},
		operatorCase{op: "DeformConv", opset: 19, attrs: "kernel_shape = [3, 3], pads = [1, 1, 1, 1]", inputs: in("x: float[2,4,6,5]", "w: float[6,4,3,3]", "o: float[2,18,6,5]"), outputs: "y"},
		operatorCase{op: "DeformConv", opset: 19, attrs: "kernel_shape = [3, 2], strides = [2, 1], dilations = [1, 2], group = 2, offset_group = 2",
			inputs: in("x: float[2,4,7,6]", "w: float[6,2,3,2]", "o: float[2,24,3,4]", "b: float[6]", "m: float[2,12,3,4]"), outputs: "y"},
	)
	for _, shape := range [][]int64{{4, 9}, {7, 2}, {5, 5}} {
		add(operatorCase{op: "CenterCropPad", opset: 18, attrs: "axes = [0, -1]", inputs: in("x: float[5,3,5]", "s: int64[2]"), outputs: "y", values: map[string]any{"s": shape}})
	}
	add(
		operatorCase{op: "CenterCropPad", opset: 18, inputs: in("x: float[5,4]", "s: int64[2]"), outputs: "y", values: map[string]any{"s": []int64{2, 7}}},
		operatorCase{op: "BitCast", opset: 26, attrs: "to = 6", inputs: in("x: float[3,4]"), outputs: "y:int32"},
		operatorCase{op: "CumProd", opset: 26, inputs: in("x: float[3,4]", "a: int64"), outputs: "y", values: map[string]any{"a": []int64{1}}},
		operatorCase{op: "CumProd", opset: 26, attrs: "exclusive = 1, reverse = 1", inputs: in("x: float[3,4]", "a: int64"), outputs: "y", values: map[string]any{"a": []int64{-2}}},
		operatorCase{op: "Swish", opset: 24, attrs: "alpha = 0.7", inputs: in("x: float[3,4]"), outputs: "y"},
		operatorCase{op: "RMSNormalization", opset: 23, attrs: "axis = 1, epsilon = 0.1", inputs: in("x: float[2,3,4]", "g: float[3,4]"), outputs: "y"},
	)
	return out
}
