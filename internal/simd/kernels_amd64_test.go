//go:build amd64 && !purego

package simd

import (
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// TestAssemblySelected fails when a machine has the instructions of a path, as
// its operating system lists them, and the path or one of its kernels is not
// what runs: a kernel that is never selected is never tested.
func TestAssemblySelected(t *testing.T) {
	for _, p := range []struct {
		path  Path
		flags []string // names of Linux
	}{
		{AVX2, []string{"avx2", "fma", "bmi2"}},
		{AVX512, []string{"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}},
	} {
		k, err := For(p.path)
		if has, known := machineHas(p.flags); known && has != (err == nil) {
			t.Errorf("the machine has the instructions of %v: %v, but For says: %v", p.path, has, err)
		} else if !has {
			t.Logf("%v: not on this machine", p.path)
		}
		if err != nil {
			continue
		}
		if k.Path() != p.path {
			t.Errorf("For(%v) gave %v", p.path, k.Path())
		}
		eachFunc(reflect.ValueOf(*k), "", func(field string, f reflect.Value) {
			name := runtime.FuncForPC(f.Pointer()).Name()
			if !strings.HasSuffix(strings.TrimSuffix(strings.ToLower(name), "vnni"), p.path.String()) {
				t.Errorf("%v: kernel %s is %s, not assembly of that path", p.path, field, name)
			}
		})
	}
}

// machineHas reports whether all CPUs list the flags; known is false where the
// operating system does not say.
func machineHas(flags []string) (has, known bool) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false, false
	}
	for line := range strings.Lines(string(text)) {
		if name, list, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			known, has = true, true
			for _, f := range flags {
				has = has && strings.Contains(" "+strings.TrimSpace(list)+" ", " "+f+" ")
			}
			if !has {
				return false, true
			}
		}
	}
	return has, known
}

// eachFunc calls f for all functions in a struct and the structs within.
func eachFunc(v reflect.Value, name string, f func(name string, fn reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			eachFunc(v.Field(i), name+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Func:
		f(name, v)
	}
}
