// kstatus tells how GitOps tools see objects: it reads one JSON object per line from standard
// input and prints one JSON line for each with kstatus's verdict.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

const longestLine = 4 << 20 // bytes; etcd keeps no object above 1.5 MiB

type verdict struct {
	Status  status.Status `json:"status"`
	Message string        `json:"message"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func run() error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestLine)
	answers := json.NewEncoder(os.Stdout)
	for number := 1; lines.Scan(); number++ {
		// Not encoding/json: it makes every number a float64, which kstatus refuses.
		var content map[string]any
		if err := utiljson.Unmarshal(lines.Bytes(), &content); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		result, err := status.Compute(&unstructured.Unstructured{Object: content})
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err := answers.Encode(verdict{result.Status, result.Message}); err != nil {
			return err
		}
	}
	return lines.Err()
}
