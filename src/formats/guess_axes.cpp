#include "formats/guess_axes.h"

#include "base/bounded_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace attnscope::formats {

namespace {

constexpr double most_steps = 0.7; // dropout and underflow leave a newest column out now and then

// The number behind one of `words`, with nothing but ., _, - or [ between; -1: there is none.
int64_t number_behind(const std::string& name, std::initializer_list<std::string_view> words) {
    std::string lower = name;
    for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    for (const std::string_view word : words) {
        for (size_t at = lower.find(word); at != std::string::npos; at = lower.find(word, at + 1)) {
            if (at > 0 && lower[at - 1] >= 'a' && lower[at - 1] <= 'z') continue; // the end of another word
            size_t digit = at + word.size();
            if (digit < lower.size() && lower[digit] == 's') ++digit;
            while (digit < lower.size() && std::string_view("._-[").find(lower[digit]) != std::string_view::npos)
                ++digit;
            int64_t value = 0;
            size_t n = 0;
            for (; digit < lower.size() && lower[digit] >= '0' && lower[digit] <= '9' && n < 15; ++digit, ++n)
                value = value * 10 + (lower[digit] - '0');
            if (n > 0) return value;
        }
    }
    return -1;
}

std::string extents_text(const std::vector<int64_t>& shape) {
    return base::shape_text(shape);
}

// Names the axes that are left, in order: layers, then heads; and says so where there is only one.
bool name_rest(std::vector<Axis>& axes, const std::vector<size_t>& rest, const std::vector<int64_t>& shape,
               bool one_of_layers, std::string& why) {
    if (rest.size() == 2 && !one_of_layers) {
        axes[rest[0]] = Axis::layer;
        axes[rest[1]] = Axis::head;
        return true;
    }
    if (rest.size() > 1) return false;
    if (rest.empty()) return true;
    const size_t i = rest[0];
    // [batch, head, query, key]: an axis of 1 before it; [layer, query, key]: none
    const bool ones_before = std::count(shape.begin(), shape.begin() + int64_t(i), 1) > 0;
    const bool head = one_of_layers || (ones_before && shape.size() >= 4);
    axes[i] = head ? Axis::head : Axis::layer;
    if (!head)
        why += "; the axis of " + std::to_string(shape[i]) +
               " may be layers (means over heads) or the heads of one layer: read as layers";
    return true;
}

} // namespace

NamedPlace named_place(const std::string& name) {
    return {number_behind(name, {"step", "token", "tok", "iter", "gen"}),
            number_behind(name, {"layer", "block", "l", "h"})};
}

AxesGuess guess_axes(const std::vector<int64_t>& shape, const ArrayProbe& probe, bool one_of_layers) {
    AxesGuess guess;
    const size_t n = shape.size();
    guess.axes.assign(n, Axis::one);
    if (n == 0) {
        guess.question = "it has no axis";
        return guess;
    }
    guess.axes[n - 1] = Axis::key;
    std::vector<size_t> wide; // axes of more than 1 before the last
    for (size_t i = 0; i + 1 < n; ++i) {
        if (shape[i] != 1) wide.push_back(i);
    }
    const auto ask = [&](const std::string& readings, const std::string& options) {
        guess.question = "the shape " + extents_text(shape) + " can be read as " + readings +
                         ", and nothing in the numbers decides: pass " + options;
        return guess;
    };
    const auto without = [&](size_t axis) {
        std::vector<size_t> rest = wide;
        std::erase(rest, axis);
        return rest;
    };
    const auto too_many = [&]() {
        guess.question = "the shape " + extents_text(shape) +
                         " has too many axes for [layer, head, query, key]: save one prompt of the batch, or one step, "
                         "as an array of its own (x[:, 0] in NumPy), or name the axes with --axes";
        return guess;
    };
    // An axis along which rows are used one column further at each step is one of tokens, or of a prompt's queries.
    size_t growing = n;
    for (const size_t i : wide) {
        if (probe.grows[i] >= most_steps && (growing == n || probe.grows[i] > probe.grows[growing])) growing = i;
    }
    if (growing == n && wide.size() == 3 && n == 4 && probe.varies[wide[0]] >= most_steps &&
        probe.varies[wide[1]] < 0.3 && probe.varies[wide[2]] < 0.3) {
        growing = wide[0]; // tokens that were picked out of a text
    }
    if (growing < n) {
        const bool query = growing == wide.back() && (shape[growing] == shape[n - 1] || (growing + 2 == n && n > 2));
        guess.axes[growing] = query ? Axis::query : Axis::token;
        guess.why =
            query && shape[growing] == shape[n - 1]
                ? "the last two axes are equal, and each row is used one column further than the row before"
                : fmt::format("rows are used one column further at each step along the axis of {}", shape[growing]);
        if (!name_rest(guess.axes, without(growing), shape, one_of_layers, guess.why)) return too_many();
        return guess;
    }
    const size_t n_wide = wide.size();
    const bool square = n >= 2 && n_wide > 0 && wide.back() == n - 2 && shape[n - 2] == shape[n - 1];
    if (square && n == 3 && !one_of_layers) {
        return ask("[layer, head, context] of one token or as [layer, query, key] of a prompt",
                   "--axes layer,head,key or --axes layer,query,key");
    }
    if (square) {
        guess.axes[n - 2] = Axis::query;
        guess.why =
            fmt::format("the last two axes are equal; {:.0f}% of the rows that were looked at are used beyond the "
                        "diagonal: a map that is not causal",
                        100 * probe.beyond_diagonal);
        if (!name_rest(guess.axes, without(n - 2), shape, one_of_layers, guess.why)) return too_many();
        return guess;
    }
    if (one_of_layers) {
        if (n_wide > 1)
            return ask("one layer's [token, head, key] or [head, query, key]",
                       "--axes token,head,key or --axes head,query,key");
        if (n_wide == 1) guess.axes[wide[0]] = Axis::head;
        guess.why = "one layer of several, by its name or its neighbours";
        return guess;
    }
    switch (n_wide) {
    case 0: guess.why = "one row: a mean over layers and heads"; return guess;
    case 1:
        if (n == 2)
            return ask("one row for each token, head or layer",
                       "--axes token,key, --axes head,key or --axes layer,key");
        guess.why = "the other axes have the extent 1";
        if (n == 3 && wide[0] == 1)
            guess.axes[1] = Axis::head;
        else if (!name_rest(guess.axes, wide, shape, false, guess.why))
            return too_many();
        return guess;
    case 2:
        guess.axes[wide[0]] = Axis::layer;
        guess.axes[wide[1]] = Axis::head;
        guess.why = n == 3 ? "[layers, heads, context] is the form of one token" : "the other axes have the extent 1";
        if (n > 3 && wide[0] == 0)
            guess.why += "; tokens that follow one another would be used one column further each time";
        return guess;
    case 3:
        if (n > 4) { // an axis of 1 between: a batch, as torch.stack over layers leaves it
            guess.axes[wide[0]] = Axis::layer;
            guess.axes[wide[1]] = Axis::head;
            guess.axes[wide[2]] = Axis::query;
            guess.why = "five axes of which one is a batch of 1: [layers, batch, heads, queries, keys]";
            return guess;
        }
        if (probe.probabilities()) {
            return ask("[token, layer, head, context] or as [layer, head, query, key]",
                       "--axes token,layer,head,key or --axes layer,head,query,key");
        }
        guess.axes[0] = Axis::token;
        guess.axes[1] = Axis::layer;
        guess.axes[2] = Axis::head;
        guess.why = "[tokens, layers, heads, context] is what four axes are without a sign of something else";
        return guess;
    default: return too_many();
    }
}

} // namespace attnscope::formats
