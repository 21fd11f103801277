// A verifier of ledgers that shares nothing with mcp-audit: note and tree are checked by golang.org/x/mod/sumdb, which
// checks the checksum database of the Go project, and the legacy signature by encoding/json and crypto/hmac.
//
// It reads one JSON object per line and answers each with a line: "ok", or what is wrong.
package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	What   string // "note", "proof" or "signature"
	Data   []byte
	Vkey   string
	Secret string
}

type checkpoint struct {
	origin string
	tree   tlog.Tree
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<26)
	for in.Scan() {
		if err := answer(in.Bytes()); err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok")
		}
	}
}

func answer(line []byte) error {
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return err
	}
	switch q.What {
	case "note":
		_, err := openCheckpoint(q.Data, q.Vkey)
		return err
	case "proof":
		return checkProof(string(q.Data), q.Vkey)
	case "signature":
		return checkSignature(q.Data, q.Secret)
	}
	return errors.New("unknown question")
}

// openCheckpoint reads a signed note whose text is a C2SP tlog-checkpoint.
func openCheckpoint(text []byte, vkey string) (checkpoint, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return checkpoint{}, err
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return checkpoint{}, err
	}
	// Package note lets the spare bits of base64 be anything.
	for _, signature := range opened.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(signature.Base64); err != nil {
			return checkpoint{}, err
		}
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return checkpoint{}, errors.New("the note is no checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return checkpoint{}, err
	}
	root, err := parseHash(lines[2])
	if err != nil {
		return checkpoint{}, err
	}
	return checkpoint{lines[0], tlog.Tree{N: size, Hash: root}}, nil
}

// parseHash takes the one canonical spelling, which tlog.ParseHash does not insist on.
func parseHash(text string) (tlog.Hash, error) {
	hash, err := tlog.ParseHash(text)
	if err == nil && hash.String() != text {
		err = errors.New("a hash is not canonical base64")
	}
	return hash, err
}

// checkProof checks a C2SP tlog-proof whose extra data is the record itself.
func checkProof(text, vkey string) error {
	head, signed, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" ||
		!strings.HasPrefix(lines[1], "extra ") || !strings.HasPrefix(lines[2], "index ") {
		return errors.New("no proof of a record")
	}
	record, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	var path tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := parseHash(line)
		if err != nil {
			return err
		}
		path = append(path, hash)
	}
	log, err := openCheckpoint([]byte(signed), vkey)
	if err != nil {
		return err
	}
	if index < 0 || index >= log.tree.N {
		return errors.New("the index is not in the tree")
	}
	if err := tlog.CheckRecord(path, log.tree.N, log.tree.Hash, index, tlog.RecordHash(record)); err != nil {
		return err
	}
	var place struct {
		Log string
		Seq int64
	}
	if err := json.Unmarshal(record, &place); err != nil {
		return err
	}
	if place.Log != log.origin || place.Seq != index {
		return errors.New("the record is about another place")
	}
	return nil
}

// checkSignature checks the hmac-sha256 of an exchange line the way a Go program that decodes the line would.
func checkSignature(line []byte, secret string) error {
	var entry struct {
		ID        string          `json:"id"`
		Timestamp time.Time       `json:"timestamp"`
		Method    string          `json:"method"`
		ToolName  string          `json:"tool_name"`
		Params    json.RawMessage `json:"params"`
		Signature string          `json:"signature"`
	}
	if err := json.Unmarshal(line, &entry); err != nil {
		return err
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(entry.ID))
	mac.Write([]byte(entry.Timestamp.Format(time.RFC3339Nano)))
	mac.Write([]byte(entry.Method))
	mac.Write([]byte(entry.ToolName))
	mac.Write(entry.Params)
	expected := "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
	if !hmac.Equal([]byte(expected), []byte(entry.Signature)) {
		return errors.New("the signature does not match")
	}
	return nil
}
