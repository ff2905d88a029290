// What attached programs decode, kept while it may be asked about: the keys and tokens of every line of text.
#pragma once

#include "base/mutex.h"

#include <attnscope/attention_view.h>
#include <attnscope/error.h>
#include <attnscope/types.h>

#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace attnscope::server {

class Watch;

// A context of a program that computes attention.
struct ContextId {
    uint64_t program = 0;
    uint32_t stream = 0;
    auto operator<=>(const ContextId&) const = default;
};
struct LineId {
    ContextId context;
    int64_t line = -1;
    auto operator<=>(const LineId&) const = default;
};

// Where a line of text is recorded.
struct RecordedLine {
    std::string name; // of the file, in its folder
    int64_t sequence = 0;
};

class LiveSequences {
public:
    using Piece = std::function<std::string(int32_t token)>;
    // What a context computes with.
    struct Model {
        std::string file; // its name, without folders; empty: not known
        Geometry geometry;
        std::function<std::vector<int32_t>(const std::string& text)> tokens; // of a prompt
        Piece said;                                                          // what a token adds to a text
    };
    struct Options {
        // Of the keys of all lines. Above it those that rested longest are forgotten, and what goes on from them has no rows.
        size_t key_bytes = size_t(2) << 30;
    };
    LiveSequences() : LiveSequences(Options{}) {}
    explicit LiveSequences(Options options);
    ~LiveSequences();
    LiveSequences(const LiveSequences&) = delete;
    LiveSequences& operator=(const LiveSequences&) = delete;

    // ---- what programs tell, on one thread; every call returns soon ----
    void context_begins(ContextId context, const Geometry& geometry, Piece piece);
    // Its geometry is that of the context.
    void model_known(ContextId context, Model model);
    void line_begins(LineId line, int64_t parent, int64_t n_shared);
    // `slot`: the stream of the cache that holds it; -1: the cache has one for all.
    void frame(ContextId context, int32_t slot, const Frame& frame);
    // Of layers on devices frames come late: so many will have come with those of what the program has computed.
    void frames_due(ContextId context, int64_t n);
    // Where the line is recorded from now on, or why it is not.
    void line_recorded(LineId line, Result<RecordedLine> where);
    void context_ends(ContextId context);
    void program_ends(uint64_t program);
    // Everything that programs had told when this was called was taken. Returns when somebody waits for what they tell, or one of the
    // descriptors `calls` can be read; after `most` at the latest.
    void all_taken(std::chrono::milliseconds most, std::span<const int> calls = {});

    // ---- from any thread ----
    // The shape of the model, of the context that began first; nothing until one has decoded something.
    std::optional<Geometry> geometry() const;
    // Of the context that began last with a file of this name.
    std::optional<Model> model(const std::string& file) const;
    // The text of a token of the context that began first.
    std::string piece(int32_t token) const;
    // Does any cache tell slots apart? Nothing: nothing was decoded yet.
    std::optional<bool> tells_slots_apart() const;
    // How many columns of each slot's latest line begin as `tokens` do.
    std::vector<int64_t> beginnings(const std::vector<int32_t>& tokens, int32_t n_slots) const;
    // Waits until everything was taken that programs had computed when this was called. False: not within `patience`.
    bool wait_for_all(std::chrono::milliseconds patience);
    // The keys of columns [0, n) of a line. not_found: they are not there any more.
    Result<std::unique_ptr<KeyStore>> keys(LineId line, int64_t n);
    // not_found: it is not recorded, in words.
    Result<RecordedLine> recorded(LineId line) const;

private:
    friend class Watch; // its state lies under our mutex
    struct Line {
        int64_t parent = -1, n_shared = 0;
        std::vector<int32_t> tokens;     // of its own columns, n_shared and later
        std::unique_ptr<KeyStore> store; // of all its columns; null: forgotten
        std::optional<Result<RecordedLine>> recorded;
        std::list<LineId>::iterator used;
        int64_t length() const { return n_shared + static_cast<int64_t>(tokens.size()); }
    };
    struct Context {
        Geometry geometry;
        Piece piece;
        Model model;
        std::map<int64_t, Line> lines;
        std::map<int32_t, int64_t> line_of_slot; // the latest
        int64_t n_frames = 0, n_expected = 0;    // that came, and that will have come once what was computed has
    };
    size_t own_bytes(const Context& context, const Line& line) const REQUIRES(mutex_);
    void forget(Context& context, Line& line) REQUIRES(mutex_);
    void limit_keys() REQUIRES(mutex_);
    void end(std::map<ContextId, Context>::iterator context) REQUIRES(mutex_);
    void want();
    // Are the tokens of columns [0, tokens.size()) of a line these?
    bool begins_with(const LineId& line, const std::vector<int32_t>& tokens) const REQUIRES(mutex_);

    const Options options_;
    mutable base::Mutex mutex_;
    base::Condition taken_;
    const int wanted_; // an eventfd: somebody waits
    std::map<ContextId, Context> contexts_ GUARDED_BY(mutex_);
    std::list<LineId> by_use_ GUARDED_BY(mutex_); // those with keys, the one that rested longest first
    size_t key_bytes_ GUARDED_BY(mutex_) = 0;
    std::set<Watch*> watches_ GUARDED_BY(mutex_);
    uint64_t n_taken_ GUARDED_BY(mutex_) = 0; // calls of all_taken()
    size_t n_waiting_ GUARDED_BY(mutex_) = 0; // for them
};

} // namespace attnscope::server
