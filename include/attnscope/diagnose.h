// What is wrong with a dump of attention, what shows it, what can be kept and how to capture it rightly.
// docs/diagnose.md describes every cause and its signal. Knows tensors only: DumpReader brings them.
#pragma once

#include <attnscope/dump_reader.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace attnscope {

enum class Cause {
    clean,               // nothing wrong was found
    learned_sinks,       // rows rightly sum to less than 1: not damage
    quantised,           // whole multiples of a step (8 bits, decimals): not damage
    not_causal,          // queries of a prompt look at later positions: right for an encoder
    evicted,             // positions that no row uses any more (a cache that drops some): not damage
    padding_queries,     // rows of a prompt's padding, the same ones in every layer: not damage
    dropout,             // weights are 0 or p / (1 - rate): the model was in training mode
    rescaled,            // rows sum to another constant (percent), or were divided by their maximum
    other_axis,          // sums are 1 over heads or over queries: softmax over the wrong axis
    sink_column,         // the last column is not a position: a sink that was kept
    raw_scores,          // scores instead of probabilities: scaled and masked, not yet through softmax
    early_scores,        // scores before scaling or mask (llama.cpp's `kq` is both)
    aliasing,            // every layer holds the same layer's rows
    race,                // some layers hold one layer's rows, or kinds change from token to token
    stale_frame,         // the previous token's tensor again
    mixture,             // probabilities and scores in one tensor
    padding,             // columns beyond the context taken for context
    cells_for_positions, // columns are cells of the KV cache, not positions
    transposed,          // heads and positions exchanged
    kv_heads,            // KV heads taken for query heads
    half_overflow,       // NaN, infinity or the largest half-precision number
    corrupt,             // truncated or damaged data
    unknown,             // not attention as we know it, and none of the above
};
const char* cause_name(Cause cause);  // stable: "aliasing", "learned sinks", ... for --json and tables
const char* cause_title(Cause cause); // a heading for people
bool cause_is_damage(Cause cause);    // all but clean and those marked "not damage" or "right" above

// What the rows of one token are.
enum class TokenKind {
    probabilities,     // every row is non-negative and sums to 1
    sub_probabilities, // every row is non-negative and sums to 1 or less
    scores,            // negative numbers, or sums that are not 1: not through softmax
    mixed,             // some rows are probabilities, some are scores
    not_finite,        // NaN or infinity where none belongs
    transposed,        // sums to 1 along the other axis
    zeros,             // nothing but zeros
    weights,           // non-negative, and a finding says why rows do not sum to 1
    padding,           // a query of a prompt's padding: nothing that means anything
    unreadable,        // the file could not be read
};
const char* token_kind_name(TokenKind kind);

// Facts of one token, in the order of the dump.
struct TokenFacts {
    int64_t index = 0;
    int64_t number = 0;
    TokenKind kind = TokenKind::probabilities;
    int32_t n_layer = 0;
    int32_t n_head = 0;
    int64_t n_context = 0;
    int64_t stated_context = -1;
    std::string error; // of an unreadable token

    struct Numbers { // of the whole tensor
        float min = 0;
        float max = 0;
        double sum = 0;
        double row_sum_min = 0;
        double row_sum_max = 0;
        int64_t n_not_finite = 0; // NaN and infinities, without the -inf of a mask
        int64_t n_masked = 0;     // -inf, or the large negative numbers that frameworks use for it
        int64_t n_half_limit = 0; // exactly +-65504, the largest half-precision number
        float mask_low = 0;       // range of the finite numbers that are there for a mask; 0: none
        float mask_high = 0;
    } numbers;

    struct Layers {             // how many
        int32_t distinct = 0;   // differ bitwise
        int32_t equal = 0;      // are not trivial and equal another layer of this token
        int32_t stale = 0;      // repeat the previous token's
        int32_t zero = 0;       // hold zeros only
        int32_t partition = 0;  // which layers equal which, as a number: equal numbers, equal partitions
        int32_t head_group = 1; // heads come in runs of this many equal ones; 1: they do not
        int64_t repeats = -1;   // index of the earlier token whose tensor this is; -1: none
        bool trivial = false;   // too little in it to tell layers apart: one position, or only one-hot rows
    } layers;

    struct Rows {                        // how many
        int32_t n = 0;                   // have a number that is not 0
        int32_t empty = 0;               // are NaN, a mask, or 0 only
        int32_t uniform = 0;             // hold one number in every column
        int32_t sub = 0;                 // sum to less than 1
        int32_t score = 0;               // are scores
        int32_t wild = 0;                // are neither probabilities nor plausible scores
        int64_t widest = 0;              // columns that one row uses, at most
        int32_t missing = 0;             // are marked as not there by who wrote them (DumpToken::missing_rows)
        int32_t zero_tail = 0;           // are zeros at the end of the tensor, but for those that are marked
        bool zero_tail_in_layer = false; // those begin inside a layer
        double sum_min = 0, sum_max = 0; // row sums of those that are not empty
    } rows;

    struct Columns {
        int64_t padding = 0;        // at the end, zero in every row
        int64_t newest = -1;        // the one that grew most since a previous token of equal width; -1: cannot be told
        int32_t wrapped_layers = 0; // layers whose weights leave a hole, or end before the newest position
        int64_t wrap_edge = -1;     // column before that hole or end, in the first such layer
        int32_t behind_layers = 0;  // layers that leave the newest positions out while others use them
        int32_t reused_layers = 0;  // layers that use a column again that the token before did not use
        int32_t lone_last_layers = 0; // layers whose only column after a hole is the last one
        bool two_texts = false; // the wrapped layers end before the first column that any other uses (cross attention)
    } columns;

    struct Prompt {              // of a prompt's query
        int64_t own_column = -1; // its own position; -1: no such query
        int32_t ahead_rows = 0;  // rows with weight beyond own_column
        double ahead_weight = 0; // that weight, summed over the rows
        int32_t behind_rows = 0; // rows that begin at own_column, or later
    } prompt;

    struct Steps {
        float row_top = 0;              // 1, 100 or 255, where the first row's largest number is that
        int32_t max_one_rows = 0;       // rows whose largest number is exactly row_top
        int32_t rows = 0;               // rows with enough numbers to see a step
        std::array<int32_t, 15> fits{}; // how many of them are whole multiples, step by step (row_steps.h)
        int32_t even_rows = 0; // the same of rows of one number, which say nothing of steps of a row's own maximum
        std::array<int32_t, 15> even_fits{};
    } steps;

    // Zeros among the columns that their layer uses: what dropout leaves. Sums over rows of n, k and k * k / n, where k
    // of n columns are 0.
    struct Dropout {
        int64_t rows = 0;
        double n = 0, k = 0, kk = 0;
        double sum = 0; // of those rows' sums
    } dropout;

    struct Scores {
        double heads_share = 0; // share of columns whose sum over the heads is 1
        double peakedness = 0;  // median weight of a row's largest entry after softmax
        double spread = 0;      // median standard deviation of a row
    } scores;
};

struct Finding {
    Cause cause = Cause::clean;
    int64_t n_tokens = 0;              // tokens concerned
    std::vector<std::string> evidence; // sentences with numbers
    std::string keep;                  // what can be kept, and as what
    std::string fix;                   // what to change where the dump is made
    std::string undecided;             // what the data alone cannot decide, and which fact would; empty: nothing
};

// A place where the kind of tokens changes.
struct Transition {
    int64_t index = 0; // of the first token of the new kind
    TokenKind from = TokenKind::probabilities;
    TokenKind to = TokenKind::probabilities;
};

struct Pattern {
    std::vector<Transition> transitions;
    int64_t period = 0;                  // tokens after which good and bad repeat; 0: no period
    double period_strength = 0;          // autocorrelation at that lag
    double correlation_with_index = 0;   // of "bad" with the place in the dump, -1 to 1
    double correlation_with_context = 0; // of "bad" with the context length
    std::string sentence;                // all that in words
};

// What of one token may be kept.
enum class Keep {
    nothing,
    all,          // as it is
    last_layer,   // one layer, as the last layer's
    cropped,      // without the columns of padding
    transposed,   // with heads and positions exchanged back
    kv_heads,     // one row a KV head
    scores,       // as scores, not as attention
    normalised,   // each row divided by its sum
    without_last, // without the last column, which is no position
};
const char* keep_name(Keep keep);

struct Diagnosis {
    DumpInfo dump;
    std::vector<Finding> findings; // most important first; never empty
    Pattern pattern;
    std::vector<TokenFacts> tokens;
    std::vector<Keep> keep; // one a token
    std::string conclusion; // the findings in plain words

    Cause cause() const { return findings.front().cause; }
    bool good() const {
        return std::none_of(findings.begin(), findings.end(),
                            [](const Finding& f) { return cause_is_damage(f.cause); });
    }
};

// Takes tokens one after another. Keeps facts, not tensors.
class Diagnoser {
public:
    explicit Diagnoser(DumpInfo dump);
    ~Diagnoser();
    void add(const DumpToken& token);
    void add_unreadable(const Error& error);
    Diagnosis finish();

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Reads a dump to its end. `progress` gets tokens done. Fails only where there is nothing to diagnose.
Result<Diagnosis> diagnose_dump(DumpReader& reader, const std::function<void(int64_t)>& progress = {});

} // namespace attnscope
