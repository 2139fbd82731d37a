// The same sum on Go's net/http: go build net_http.go && ./net_http PORT
//
// It reads what the benchmark sends, counts each request, and answers as webserver_influx.py does. It runs on as many
// CPUs as it may use (GOMAXPROCS), and says on how many.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
)

var requests atomic.Int64

func answer(w http.ResponseWriter, r *http.Request) {
	requests.Add(1)
	sum := 0.0
	if r.Method == http.MethodPost {
		var document map[string]any
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &document)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, value := range document {
			switch value := value.(type) {
			case float64:
				sum += value
			case string:
				sum += number(value)
			}
		}
	} else {
		for query := r.URL.RawQuery; query != ""; {
			var pair string
			pair, query, _ = strings.Cut(query, "&")
			_, value, _ := strings.Cut(pair, "=")
			if strings.ContainsAny(value, "%+") {
				value, _ = url.QueryUnescape(value)
			}
			sum += number(value)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "Sum: "+text(sum))
}

// number is 0 where the text is none.
func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return value
}

// text is a number as Python writes it.
func text(value float64) string {
	digits := strconv.FormatFloat(value, 'g', -1, 64)
	if !strings.ContainsAny(digits, ".e") {
		digits += ".0"
	}
	return digits
}

func main() {
	fmt.Fprintf(os.Stderr, "GOMAXPROCS=%d\n", runtime.GOMAXPROCS(0))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(answer)))
}
