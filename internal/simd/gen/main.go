// Command gen writes the assembly of package simd and the Go stubs that declare
// it. From internal/simd:
//
//	go generate                 writes the files
//	go run -C gen . -check ..   fails when they are not current
//
// One file of this package generates one family of kernels, for AVX2 and
// AVX-512 from the same text wherever the instructions allow. The comment of
// every stub is the reference loop of the kernel.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

// families lists the generated files: NAME_amd64.s and NAME_amd64.go.
var families = []struct {
	name string
	emit func(*family)
}{
	{"circulant", circulant},
	{"gemm", gemm},
	{"conv", conv},
	{"winograd", winograd},
	{"pool", pool},
	{"elementwise", elementwise},
	{"activation", activation},
	{"reduce", reduce},
	{"rows", rows},
	{"peak", peak},
	{"fixed", fixed},
	{"fixed_circulant", fixedCirculant},
	{"fixed_convert", fixedConvert},
	{"fixed_move", fixedMove},
}

func main() {
	write := flag.String("write", "", "write the files into this folder")
	check := flag.String("check", "", "compare the files in this folder with what would be written")
	flag.Parse()
	var err error
	switch {
	case *write != "" && *check == "" && flag.NArg() == 0:
		err = eachFile(func(name string, text []byte) error {
			return os.WriteFile(filepath.Join(*write, name), text, 0o644)
		})
	case *check != "" && *write == "" && flag.NArg() == 0:
		err = eachFile(current(*check))
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// current returns a function that compares a generated file with the one in dir.
func current(dir string) func(name string, text []byte) error {
	return func(name string, text []byte) error {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(have, text) {
			return fmt.Errorf("%s is not current: run `go generate` in internal/simd", name)
		}
		return nil
	}
}

// eachFile generates all files and hands them to f.
func eachFile(f func(name string, text []byte) error) error {
	for _, fam := range families {
		c := build.NewContext()
		c.ConstraintExpr("amd64")
		c.ConstraintExpr("!purego")
		fam.emit(&family{c, map[string]operand.Mem{}})
		file, err := c.Result()
		if err == nil {
			err = pass.Compile.Execute(file)
		}
		if err == nil {
			err = verifyISA(file)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", fam.name, err)
		}
		cfg := printer.Config{Argv: []string{"go", "generate"}, Pkg: "simd"}
		for suffix, p := range map[string]printer.Printer{"_amd64.s": printer.NewGoAsm(cfg), "_amd64.go": printer.NewStubs(cfg)} {
			text, err := p.Print(file)
			if err == nil {
				err = f(fam.name+suffix, text)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// extensions says what the functions of a path may use, by the suffix of their
// names. It is what the run-time detection in package simd asks for.
var extensions = map[string]map[string]bool{
	"AVX2":       {"AVX": true, "AVX2": true, "FMA3": true, "BMI2": true},
	"AVX512":     {"AVX": true, "AVX2": true, "FMA3": true, "BMI2": true, "AVX512F": true, "AVX512BW": true, "AVX512DQ": true, "AVX512VL": true},
	"AVX512VNNI": {"AVX": true, "AVX2": true, "FMA3": true, "BMI2": true, "AVX512F": true, "AVX512BW": true, "AVX512DQ": true, "AVX512VL": true, "AVX512VNNI": true},
}

// baseline is what every amd64 machine has.
var baseline = map[string]bool{"CMOV": true, "MMX+": true, "SSE": true, "SSE2": true}

// verifyISA fails when a function uses an instruction that the run-time
// detection of its path does not ask for, or an AVX2 function a register that
// only AVX-512 can name (the Go assembler would silently encode it so).
func verifyISA(f *ir.File) error {
	for _, fn := range f.Functions() {
		path := "AVX2"
		if strings.HasSuffix(fn.Name, "AVX512") {
			path = "AVX512"
		} else if strings.HasSuffix(fn.Name, vnni.name) {
			path = vnni.name
		} else if !strings.HasSuffix(fn.Name, "AVX2") {
			return fmt.Errorf("function %s is named after no path", fn.Name)
		}
		for _, i := range fn.Instructions() {
			for _, x := range i.ISA {
				if !extensions[path][x] && !baseline[x] {
					return fmt.Errorf("%s: %s takes %s", fn.Name, i.Opcode, x)
				}
			}
			for _, r := range i.Registers() {
				if p := reg.ToPhysical(r); path == "AVX2" && p != nil && r.Kind() == reg.KindVector && p.PhysicalIndex() >= 16 {
					return fmt.Errorf("%s: %s takes register %s", fn.Name, i.Opcode, r.Asm())
				}
			}
		}
	}
	return nil
}
