// Package ort runs models in ONNX Runtime, the independent implementation
// that this project's goldens, checks and benchmarks compare with.
package ort

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	onnxruntime "github.com/yalue/onnxruntime_go"

	"github.com/onnx-lathe/lathe/bench/nd"
	"github.com/onnx-lathe/lathe/bench/wire"
)

// version is the release that install-onnxruntime.sh puts into the cache.
//
//go:embed version.txt
var version string

// Library returns the path of ONNX Runtime's shared library: the one that the
// variable LATHE_ORT names, or else the one that bench/install-onnxruntime.sh
// put into the folder .cache/ort of the repository around the working directory.
func Library() (string, error) {
	if path := os.Getenv("LATHE_ORT"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("LATHE_ORT: %w", err)
		}
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		found, _ := filepath.Glob(filepath.Join(dir, ".cache", "ort", strings.TrimSpace(version), "libonnxruntime.*"))
		for _, path := range found {
			if !strings.HasSuffix(path, ".part") {
				return path, nil
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("ONNX Runtime's library is not here: run bench/install-onnxruntime.sh, or set LATHE_ORT to its path")
		}
		dir = parent
	}
}

// start loads the library into the process, which is possible once.
var start = sync.OnceValue(func() error {
	path, err := Library()
	if err != nil {
		return err
	}
	onnxruntime.SetSharedLibraryPath(path)
	return onnxruntime.InitializeEnvironment(onnxruntime.WithLogLevelError())
})

// Options are the settings of a Session.
type Options struct {
	Threads int  // threads that one operator may use; 0 stands for 1
	Basic   bool // no rewrites of the graph beyond the redundant: every value keeps its definition
}

// An Info describes an input or output of a model. A symbolic dimension is −1.
type Info struct {
	Name  string
	Shape []int64
	Type  reflect.Type // of one element; nil where nd has none (float16, string)
}

// A Session is a model loaded into ONNX Runtime, safe for concurrent runs.
type Session struct {
	Inputs, Outputs []Info

	session *onnxruntime.DynamicAdvancedSession
	mu      sync.Mutex
	scalar  map[int]bool // outputs that turned out to have no dimensions
}

// Open loads a model file.
func Open(path string, o Options) (*Session, error) {
	if err := start(); err != nil {
		return nil, fmt.Errorf("ort: %w", err)
	}
	s, err := open(path, o)
	if err != nil {
		return nil, fmt.Errorf("ort: %s: %w", path, err)
	}
	return s, nil
}

func open(path string, o Options) (*Session, error) {
	options, err := onnxruntime.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	level := onnxruntime.GraphOptimizationLevel(onnxruntime.GraphOptimizationLevelEnableAll)
	if o.Basic {
		level = onnxruntime.GraphOptimizationLevelDisableAll
	}
	err = errors.Join(
		options.SetIntraOpNumThreads(max(o.Threads, 1)),
		options.SetInterOpNumThreads(1),
		options.SetGraphOptimizationLevel(level),
	)
	if err != nil {
		return nil, err
	}
	// The binding can tell inputs and outputs only by loading the model twice.
	m, err := wire.ReadModel(path)
	if err != nil {
		return nil, err
	}
	g := m.Message("graph")
	if g == nil {
		return nil, errors.New("is no ONNX model")
	}
	s := &Session{Inputs: infos(g, "input"), Outputs: infos(g, "output"), scalar: map[int]bool{}}
	s.session, err = onnxruntime.NewDynamicAdvancedSession(path, names(s.Inputs), names(s.Outputs), options)
	return s, err
}

// Close frees what the session holds.
func (s *Session) Close() error { return s.session.Destroy() }

// infos describes the inputs or outputs of a graph, without the inputs that
// only name initializers, as old files have them.
func infos(g *wire.Message, field string) []Info {
	weights := map[string]bool{}
	for _, w := range g.Messages("initializer") {
		weights[w.Text("name")] = true
	}
	var out []Info
	for _, v := range g.Messages(field) {
		info := Info{Name: v.Text("name")}
		if weights[info.Name] && field == "input" {
			continue
		}
		if typ := v.Message("type"); typ != nil && typ.Message("tensor_type") != nil {
			tensor := typ.Message("tensor_type")
			for _, e := range elements {
				if codes := tensor.Ints("elem_type"); len(codes) == 1 && codes[0] == int64(e.code) {
					info.Type = e.typ
				}
			}
			if shape := tensor.Message("shape"); shape != nil {
				for _, d := range shape.Messages("dim") {
					n := int64(-1)
					if values := d.Ints("dim_value"); len(values) == 1 {
						n = values[0]
					}
					info.Shape = append(info.Shape, n)
				}
			}
		}
		out = append(out, info)
	}
	return out
}

func names(list []Info) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.Name
	}
	return out
}

// Run runs the model on one array for each of its inputs, and returns its
// outputs, both by name. It does not keep or change the inputs.
func (s *Session) Run(feeds map[string]nd.Array) (map[string]nd.Array, error) {
	b, err := s.Bind(feeds)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return b.Outputs()
}

// run runs the session. The binding allocates outputs itself but for those
// without dimensions, and a model does not always declare which these are
// (no dimensions and unknown dimensions look the same), so run learns it.
func (s *Session) run(inputs []onnxruntime.Value) ([]onnxruntime.Value, error) {
	for {
		outputs := make([]onnxruntime.Value, len(s.Outputs))
		s.mu.Lock()
		for i := range s.scalar {
			for _, e := range elements {
				if e.typ == s.Outputs[i].Type {
					outputs[i], _ = e.scalar(nil)
				}
			}
		}
		s.mu.Unlock()
		given := append([]onnxruntime.Value{}, outputs...)
		err := s.session.Run(inputs, outputs)
		if err == nil {
			return outputs, nil
		}
		// The output that failed is the first that neither was given nor came to be.
		failed := -1
		for i, v := range outputs {
			if given[i] == nil && missing(v) {
				failed = i
				break
			}
		}
		destroy(outputs)
		if !errors.Is(err, onnxruntime.ZeroShapeLengthError) || failed < 0 || s.Outputs[failed].Type == nil {
			return nil, err
		}
		s.mu.Lock()
		s.scalar[failed] = true
		s.mu.Unlock()
	}
}

// missing tells whether v holds no value; the binding leaves a nil pointer
// inside the interface where it failed.
func missing(v onnxruntime.Value) bool {
	return v == nil || reflect.ValueOf(v).IsNil()
}

func destroy(values []onnxruntime.Value) {
	for _, v := range values {
		if !missing(v) {
			v.Destroy()
		}
	}
}

// An element pairs an ONNX element type with Go's.
type element struct {
	code   onnxruntime.TensorElementDataType
	typ    reflect.Type
	tensor func(nd.Array) (onnxruntime.Value, error)
	scalar func(any) (onnxruntime.Value, error) // the value that holds a T, or zero for nil
	data   func(onnxruntime.Value) (any, bool)
}

func of[T onnxruntime.TensorData](code onnxruntime.TensorElementDataType) element {
	return element{code, reflect.TypeFor[T](),
		func(a nd.Array) (onnxruntime.Value, error) {
			return onnxruntime.NewTensor(onnxruntime.Shape(a.Shape), a.Data.([]T))
		},
		func(v any) (onnxruntime.Value, error) {
			x, _ := v.(T)
			return onnxruntime.NewScalar(x)
		},
		func(v onnxruntime.Value) (any, bool) {
			switch v := v.(type) {
			case *onnxruntime.Tensor[T]:
				return append([]T{}, v.GetData()...), true
			case *onnxruntime.Scalar[T]:
				return []T{v.GetData()}, true
			}
			return nil, false
		},
	}
}

var elements = []element{
	of[float32](onnxruntime.TensorElementDataTypeFloat),
	of[float64](onnxruntime.TensorElementDataTypeDouble),
	of[int8](onnxruntime.TensorElementDataTypeInt8),
	of[int16](onnxruntime.TensorElementDataTypeInt16),
	of[int32](onnxruntime.TensorElementDataTypeInt32),
	of[int64](onnxruntime.TensorElementDataTypeInt64),
	of[uint8](onnxruntime.TensorElementDataTypeUint8),
	of[uint16](onnxruntime.TensorElementDataTypeUint16),
	of[uint32](onnxruntime.TensorElementDataTypeUint32),
	of[uint64](onnxruntime.TensorElementDataTypeUint64),
	of[bool](onnxruntime.TensorElementDataTypeBool),
}

func toValue(a nd.Array) (onnxruntime.Value, error) {
	for _, e := range elements {
		if e.typ != a.Type() {
			continue
		}
		if len(a.Shape) == 0 {
			return e.scalar(reflect.ValueOf(a.Data).Index(0).Interface())
		}
		return e.tensor(a)
	}
	return nil, fmt.Errorf("element type %v is not supported", a.Type())
}

func fromValue(v onnxruntime.Value) (nd.Array, error) {
	for _, e := range elements {
		if data, ok := e.data(v); ok {
			return nd.Array{Shape: append([]int64{}, v.GetShape()...), Data: data}, nil
		}
	}
	return nd.Array{}, fmt.Errorf("a value of type %v is not supported", v.GetONNXType())
}

// Version is the release of the library in use.
func Version() (string, error) {
	if err := start(); err != nil {
		return "", fmt.Errorf("ort: %w", err)
	}
	return onnxruntime.GetVersion(), nil
}
