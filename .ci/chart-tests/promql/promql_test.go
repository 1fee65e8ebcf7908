// Reads Prometheus rules and PromQL as Prometheus itself does. The standard input of each test is its subject.
package promql

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

func input(t *testing.T) []byte {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestRules takes a file of rule groups, and says what `promtool check rules` would say.
func TestRules(t *testing.T) {
	_, errs := rulefmt.Parse(input(t), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	for _, err := range errs {
		t.Error(err)
	}
}

// TestScript takes a script of promqltest: series, and what an expression gives at some time.
func TestScript(t *testing.T) {
	promqltest.RunTest(t, string(input(t)), promqltest.NewTestEngine(t, false, 5*time.Minute, 10000))
}

// TestNames takes a JSON list of expressions, and prints a JSON list of the metrics and the labels that they name.
func TestNames(t *testing.T) {
	var expressions []string
	if err := json.Unmarshal(input(t), &expressions); err != nil {
		t.Fatal(err)
	}
	names := map[string]map[string]bool{"metrics": {}, "labels": {}}
	for _, expression := range expressions {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			switch node := node.(type) {
			case *parser.VectorSelector:
				for _, matcher := range node.LabelMatchers {
					if matcher.Name == "__name__" {
						names["metrics"][matcher.Value] = true
					} else {
						names["labels"][matcher.Name] = true
					}
				}
			case *parser.AggregateExpr:
				for _, label := range node.Grouping {
					names["labels"][label] = true
				}
			}
			return nil
		})
	}
	text, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(text))
}
