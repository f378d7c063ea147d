// Command lathe makes ONNX models smaller and faster, and runs them.
//
// Exit status: 0 success, 1 a comparison or quality gate that failed, 2 bad
// usage or bad input, 130 interrupted.
package main

import (
	"context"
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

	"github.com/spf13/cobra"
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
