package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/onnx-lathe/lathe/internal/tokenizer"
	"github.com/onnx-lathe/lathe/runtime/generate"
)

func (a *app) generate() *cobra.Command {
	var prompt []int
	var stop []string
	var text, tokenizerPath string
	var s generate.Sampling
	most := 64
	c := &cobra.Command{
		Use:   "generate MODEL --prompt TEXT --tokenizer tokenizer.json | --tokens IDS [--max N]",
		Short: "Continue a text with a language model",
		Long: `generate feeds the tokens of a text to a decoder model, draws the one that follows from
its logits, feeds that, and so on; it prints each as soon as it is drawn. A model
with inputs for the keys and values of earlier tokens, and outputs that hand them
on, reads every token once; others read the whole text again for each. The inputs
are told apart by what the model does with them, so that their names may be any.

With --tokenizer, the tokenizer.json beside the model, what is drawn is printed as
text behind the prompt, and ends at a token that ends texts, as </s> or <|endoftext|> do, besides
those of --stop. Without it there are only token ids.

Without --temperature the most probable token is taken always. Rates go to
standard error: how fast the prompt was read, and how fast the rest came.`,
		Example: `  lathe generate model.onnx --tokenizer tokenizer.json --prompt "Once upon a time"
  lathe generate model.onnx --tokens 1
  lathe generate model.onnx --tokens 1,403,407 --max 200 --stop 2
  lathe generate model.onnx --tokens 1 --temperature 0.8 --top-k 40 --top-p 0.95 --seed 7`,
		Args: argCount(1, 1, "one model"),
		RunE: func(c *cobra.Command, args []string) error {
			words, err := readWords(tokenizerPath, text, &prompt, stop)
			if err != nil {
				return err
			}
			m, err := a.load(args[0])
			if err != nil {
				return err
			}
			a.foreseeWeights(m)
			done := a.busy("compiling " + args[0])
			d, err := generate.New(m, generate.Options{Threads: a.threads, MemoryLimit: a.memory << 20, Stop: words.stop})
			done()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, id := range words.asked {
				if n := d.Vocabulary(); id < 0 || n > 0 && id >= n {
					return fmt.Errorf("%s: --stop %d: the model's tokens are 0 … %d", args[0], id, n-1)
				}
			}
			s.Seed = a.seed
			tokens := []int{}
			if !a.json {
				fmt.Fprint(a.stdout, text)
			}
			start := time.Now()
			var first, last time.Duration
			err = d.Generate(c.Context(), prompt, most, generate.NewSampler(s), func(token int) error {
				if last = time.Since(start); len(tokens) == 0 {
					first = last
				}
				tokens = append(tokens, token)
				said := words.say(token)
				if !a.json {
					fmt.Fprint(a.stdout, said)
				}
				return c.Context().Err()
			})
			if rest := words.rest(); (len(tokens) > 0 || text != "") && !a.json {
				fmt.Fprintln(a.stdout, rest)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			read, decode := rate(len(prompt), first), rate(len(tokens)-1, last-first)
			if a.json {
				result := map[string]any{
					"path": args[0], "prompt": prompt, "tokens": tokens, "cached": d.Cached(), "stopped": slices.Contains(words.stop, tokens[len(tokens)-1]),
					"prompt_seconds": first.Seconds(), "decode_seconds": (last - first).Seconds(),
					"prompt_tokens_per_second": jsonFloat(read), "tokens_per_second": jsonFloat(decode),
				}
				if tokenizerPath != "" {
					result["text"] = words.text.String()
				}
				return a.printJSON(result)
			}
			if !a.quiet {
				note := ""
				if !d.Cached() {
					note = "; the model has no cache and reads the whole text for each token"
				}
				fmt.Fprintf(a.stderr, "tokens: %d read, %.0f a second; %d generated", len(prompt), read, len(tokens))
				if len(tokens) > 1 {
					fmt.Fprintf(a.stderr, ", %.0f a second", decode)
				}
				fmt.Fprintln(a.stderr, note)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&text, "prompt", "", "`text` to continue; needs --tokenizer")
	f.StringVar(&tokenizerPath, "tokenizer", "", "tokenizer.json `file` of the model")
	must(c.MarkFlagFilename("tokenizer", "json"))
	f.Var(tokenList{&prompt}, "tokens", "`ids` of the tokens that the text begins with, separated by commas")
	addCount(f, &most, 1, "max", "most tokens to generate")
	addNumber(f, &s.Temperature, 0, 1e6, "temperature", "what logits are divided by before a token is drawn; 0 takes the most probable one")
	addCount(f, &s.TopK, 0, "top-k", "draw from so many of the most probable tokens only, 0 from all")
	addNumber(f, &s.TopP, 0, 1, "top-p", "draw from the most probable tokens that reach this probability together, 0 from all")
	f.StringSliceVar(&stop, "stop", nil, "end behind any of these `tokens`, ids or with --tokenizer texts of one token")
	a.memoryFlag(c)
	return completeModels(c)
}

// words is how tokens are printed: as numbers, or as text.
type words struct {
	stream      *tokenizer.Stream // nil for numbers
	text        strings.Builder
	stop, asked []int // tokens that end a text, and those of them that were asked for
}

// readWords reads the tokenizer, and with it the prompt, unless that is given
// as tokens, and the tokens to stop at.
func readWords(path, text string, prompt *[]int, stop []string) (*words, error) {
	w := &words{}
	var t *tokenizer.Tokenizer
	var err error
	switch {
	case text != "" && len(*prompt) > 0:
		return nil, errors.New("generate takes --prompt or --tokens, not both")
	case text != "" && path == "":
		return nil, errors.New("generate: --prompt needs --tokenizer tokenizer.json, the file beside the model that says what its tokens are")
	case path != "":
		if t, err = tokenizer.Load(path); err != nil {
			return nil, fmt.Errorf("--tokenizer %w", err)
		}
	}
	if t != nil && len(*prompt) == 0 {
		if *prompt, err = t.Prompt(text); err != nil {
			return nil, fmt.Errorf("--prompt: %w", err)
		}
	}
	if len(*prompt) == 0 {
		return nil, errors.New("generate needs --prompt TEXT with --tokenizer, or --tokens, the token ids that the text begins with, such as --tokens 1 for a usual start of text")
	}
	for _, s := range stop {
		id, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil && t != nil {
			var ok bool
			if id, ok = t.ID(s); !ok {
				ids, err := t.Tokens(s)
				if err != nil || len(ids) != 1 {
					return nil, fmt.Errorf("--stop %q: is %d tokens, want one: %v", s, len(ids), ids)
				}
				id = ids[0]
			}
		} else if err != nil {
			return nil, fmt.Errorf("--stop %s: want token ids, separated by commas; texts need --tokenizer", s)
		}
		w.asked = append(w.asked, id)
	}
	w.stop = w.asked
	if t != nil {
		w.stop = append(slices.Clip(w.stop), t.Ends()...)
		w.stream = t.Stream(*prompt)
	}
	return w, nil
}

// say is what is printed of a token.
func (w *words) say(token int) (said string) {
	switch {
	case w.stream != nil:
		said = w.stream.Next(token)
	case w.text.Len() > 0:
		said = fmt.Sprint(" ", token)
	default:
		said = fmt.Sprint(token)
	}
	w.text.WriteString(said)
	return said
}

// rest is what is printed at the end.
func (w *words) rest() (said string) {
	if w.stream != nil {
		said = w.stream.Rest()
	}
	w.text.WriteString(said)
	return said
}

// tokenList is a flag that takes token ids separated by commas, once or more.
type tokenList struct{ to *[]int }

func (l tokenList) Type() string { return "ids" }

func (l tokenList) String() string {
	var words []string
	for _, id := range *l.to {
		words = append(words, strconv.Itoa(id))
	}
	return strings.Join(words, ",")
}

func (l tokenList) Set(s string) error {
	for word := range strings.SplitSeq(s, ",") {
		id, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || id < 0 {
			return errors.New("want token ids, whole numbers separated by commas")
		}
		*l.to = append(*l.to, id)
	}
	return nil
}

// rate is n in a time, a second; 0 where there is none.
func rate(n int, d time.Duration) float64 {
	if n < 1 || d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
