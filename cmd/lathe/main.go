// Command lathe makes ONNX models smaller and faster, and runs them.
//
// Exit status: 0 success, 1 a comparison or quality gate that failed, 2 bad
// usage or bad input, 130 interrupted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/onnx-lathe/lathe/calib"
	"github.com/onnx-lathe/lathe/graph"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const (
	exitFailed      = 1
	exitBad         = 2
	exitInterrupted = 130
)

// failed is the error of a comparison or gate that did not pass; its text is
// printed as it is.
type failed struct{ error }

// execute runs one command line and returns its exit status.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var f failed
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "lathe: interrupted; nothing half-written is left")
		return exitInterrupted
	case errors.As(err, &f):
		fmt.Fprintln(stderr, "lathe:", oneLine(err))
		return exitFailed
	}
	fmt.Fprintln(stderr, "lathe:", oneLine(err))
	return exitBad
}

// oneLine joins the lines of an error: the first of them, and how many there
// are beyond what a line should hold.
func oneLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	const most = 3
	s := strings.Join(lines[:min(len(lines), most)], "; ")
	if n := len(lines) - most; n > 0 {
		s += fmt.Sprintf("; and %d more", n)
	}
	return s
}

// app is what all commands share: where output goes, and the flags that every
// command has.
type app struct {
	stdout, stderr io.Writer
	json           bool
	quiet          bool
	verbose        bool
	threads        int
	seed           uint64
	maps           []string
	limitMB        int64
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lathe",
		Short: "Make ONNX models smaller and faster, and run them",
		Long: `lathe scores every attention and MLP module of a transformer on calibration
data, drops the least important ones, rewrites the weights that are left as
block-circulant FFT operators, and runs the result. The files it writes run in
stock ONNX Runtime too.

Every command prints one JSON object with --json. Exit status: 0 success, 1 a
comparison that failed, 2 bad usage or input, 130 interrupted.`,
		Example: `  lathe demo
  lathe inspect model.onnx
  lathe optimize model.onnx --data calib.npz --drop 4 --block 4 -o small.onnx --report report.html
  lathe eval model.onnx small.onnx --data eval.npz --labels labels`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			level := slog.LevelWarn
			if a.verbose {
				level = slog.LevelDebug
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})))
			// Weights are long-lived and large: collecting less often costs
			// little memory and saves passes over them.
			debug.SetGCPercent(200)
		},
	}
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print one JSON object on standard output")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no notes")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log what passes do")
	f.IntVar(&a.threads, "threads", 0, "threads of the runtime (0: all cores); results do not depend on it")
	f.Uint64Var(&a.seed, "seed", 1, "seed of everything random")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%s: %w; see %s --help", c.CommandPath(), err, c.CommandPath())
	})
	root.AddCommand(a.inspect(), a.score(), a.drop(), a.circulant(), a.optimize(), a.run(), a.eval(), a.bench(),
		a.verify(), a.text(), a.ledger(), a.demo(), a.version())
	return root
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := "devel"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
				v = info.Main.Version
			}
			if a.json {
				return a.printJSON(map[string]string{"version": v, "go": runtime.Version(), "arch": runtime.GOARCH, "os": runtime.GOOS})
			}
			fmt.Fprintf(a.stdout, "lathe %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

// args checks the number of arguments with a message that says what they are.
func args(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) < least || (most >= 0 && len(got) > most) {
			return fmt.Errorf("%s wants %s, got %d arguments; see %s --help", c.CommandPath(), what, len(got), c.CommandPath())
		}
		return nil
	}
}

// dataFlags adds the flags of commands that read data.
func (a *app) dataFlags(c *cobra.Command, data *string, required bool) {
	c.Flags().StringVar(data, "data", "", "samples: an .npz with arrays named after the inputs, or a folder in the ONNX test layout")
	c.Flags().StringArrayVar(&a.maps, "map", nil, "array=input: the array that feeds an input of another name (repeatable)")
	c.Flags().Int64Var(&a.limitMB, "memory", calib.DefaultLimit>>20, "most megabytes of one array of the data")
	if required {
		// Cobra's own message for a missing flag does not say what to do.
		run := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			if *data == "" {
				return fmt.Errorf("%s needs --data: an .npz or a folder in the ONNX test layout", c.CommandPath())
			}
			return run(c, args)
		}
	}
}

func (a *app) open(path string) (*calib.Source, error) {
	m := map[string]string{}
	for _, s := range a.maps {
		array, input, ok := strings.Cut(s, "=")
		if !ok || array == "" || input == "" {
			return nil, fmt.Errorf("--map %s: want array=input", s)
		}
		m[array] = input
	}
	return calib.OpenSource(path, calib.SourceOptions{Map: m, Limit: a.limitMB << 20})
}

func (a *app) load(path string) (*graph.Model, error) {
	m, err := graph.Load(path)
	if err != nil {
		return nil, err
	}
	if err := graph.Check(m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// Declared shapes that the operators contradict are common in exported
	// files, and no other runtime minds them.
	var contradiction *graph.InferError
	if err := graph.Infer(m); errors.As(err, &contradiction) && contradiction.Declared == contradiction.Total {
		slog.Info("declared shapes are wrong", "model", path, "error", oneLine(err))
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// outFlags are the flags of commands that write a model.
type outFlags struct {
	path   string
	force  bool
	dryRun bool
}

func (o *outFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&o.path, "output", "o", "", "file to write the model to")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite the file that was read")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "do everything but write files")
}

func (o *outFlags) check(command string) error {
	if o.path == "" && !o.dryRun {
		return fmt.Errorf("%s needs -o OUT.onnx, or --dry-run to write nothing", command)
	}
	return nil
}

// save writes the model; it returns the size of the file, or what it would
// be.
func (o *outFlags) save(m *graph.Model) (int64, error) {
	if o.dryRun {
		b, err := m.Encode()
		return int64(len(b)), err
	}
	if err := m.Save(o.path, graph.SaveOptions{Force: o.force}); err != nil {
		return 0, err
	}
	return fileSize(o.path), nil
}

func fileSize(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows of cells in columns.
func (a *app) table(rows [][]string) {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	w.Flush()
}

// note prints a remark on standard error.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

// progress returns a function to be told of progress: a bar on a terminal, a
// line now and then elsewhere once two seconds have passed.
func (a *app) progress(what string) func(done, total int) {
	if a.quiet {
		return nil
	}
	start := time.Now()
	if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		var bar *progressbar.ProgressBar
		return func(done, total int) {
			if bar == nil {
				bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(a.stderr), progressbar.OptionSetDescription(what),
					progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionShowCount())
			}
			bar.ChangeMax(total)
			bar.Set(done)
		}
	}
	last := start
	return func(done, total int) {
		now := time.Now()
		if now.Sub(start) < 2*time.Second || (now.Sub(last) < 10*time.Second && done < total) {
			return
		}
		if done == total && now.Sub(start) < 10*time.Second {
			return
		}
		last = now
		left := time.Duration(float64(now.Sub(start)) / float64(max(done, 1)) * float64(total-done)).Round(time.Second)
		fmt.Fprintf(a.stderr, "%s: %d of %d, about %v left\n", what, done, total, left)
	}
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// grouped prints a number with thousands separated.
func grouped(n int64) string {
	s := fmt.Sprint(n)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		s = "-" + s
	}
	return s
}
