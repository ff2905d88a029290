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

// Tries one sign after another. Each step either settles the matter, by names or by a question, or says false.
class Guesser {
public:
    Guesser(const std::vector<int64_t>& shape, const ArrayProbe& probe, bool one_of_layers)
        : shape_(shape), probe_(probe), one_of_layers_(one_of_layers), n_(shape.size()) {
        guess_.axes.assign(n_, Axis::one);
        guess_.axes[n_ - 1] = Axis::key;
        for (size_t i = 0; i + 1 < n_; ++i) {
            if (shape[i] != 1) wide_.push_back(i);
        }
    }

    AxesGuess guess() {
        if (!by_growth() && !by_square() && !within_layer()) by_number();
        return std::move(guess_);
    }

private:
    // An axis along which rows are used one column further at each step is one of tokens, or of a prompt's queries.
    bool by_growth() {
        const size_t growing = growing_axis();
        if (growing == n_) return false;
        const bool equal = shape_[growing] == shape_[n_ - 1];
        const bool query = growing == wide_.back() && (equal || (growing + 2 == n_ && n_ > 2));
        guess_.axes[growing] = query ? Axis::query : Axis::token;
        guess_.why =
            query && equal
                ? "the last two axes are equal, and each row is used one column further than the row before"
                : fmt::format("rows are used one column further at each step along the axis of {}", shape_[growing]);
        name_rest(without(growing));
        return true;
    }

    size_t growing_axis() const {
        size_t growing = n_;
        for (const size_t i : wide_) {
            if (probe_.grows[i] >= most_steps && (growing == n_ || probe_.grows[i] > probe_.grows[growing]))
                growing = i;
        }
        if (growing == n_ && wide_.size() == 3 && n_ == 4 && probe_.varies[wide_[0]] >= most_steps &&
            probe_.varies[wide_[1]] < 0.3 && probe_.varies[wide_[2]] < 0.3) {
            return wide_[0]; // tokens that were picked out of a text
        }
        return growing;
    }

    bool by_square() {
        if (n_ < 2 || wide_.empty() || wide_.back() != n_ - 2 || shape_[n_ - 2] != shape_[n_ - 1]) return false;
        if (n_ == 3 && !one_of_layers_) {
            ask("[layer, head, context] of one token or as [layer, query, key] of a prompt",
                "--axes layer,head,key or --axes layer,query,key");
            return true;
        }
        guess_.axes[n_ - 2] = Axis::query;
        guess_.why =
            fmt::format("the last two axes are equal; {:.0f}% of the rows that were looked at are used beyond the "
                        "diagonal: a map that is not causal",
                        100 * probe_.beyond_diagonal);
        name_rest(without(n_ - 2));
        return true;
    }

    bool within_layer() {
        if (!one_of_layers_) return false;
        if (wide_.size() > 1) {
            ask("one layer's [token, head, key] or [head, query, key]",
                "--axes token,head,key or --axes head,query,key");
            return true;
        }
        if (wide_.size() == 1) guess_.axes[wide_[0]] = Axis::head;
        guess_.why = "one layer of several, by its name or its neighbours";
        return true;
    }

    // Without any other sign: how many axes are wider than 1.
    void by_number() {
        switch (wide_.size()) {
        case 0: guess_.why = "one row: a mean over layers and heads"; return;
        case 1: return one_wide();
        case 2:
            guess_.axes[wide_[0]] = Axis::layer;
            guess_.axes[wide_[1]] = Axis::head;
            guess_.why =
                n_ == 3 ? "[layers, heads, context] is the form of one token" : "the other axes have the extent 1";
            if (n_ > 3 && wide_[0] == 0)
                guess_.why += "; tokens that follow one another would be used one column further each time";
            return;
        case 3: return three_wide();
        default: too_many();
        }
    }

    void one_wide() {
        if (n_ == 2) {
            return ask("one row for each token, head or layer",
                       "--axes token,key, --axes head,key or --axes layer,key");
        }
        guess_.why = "the other axes have the extent 1";
        if (n_ == 3 && wide_[0] == 1)
            guess_.axes[1] = Axis::head;
        else
            name_rest(wide_);
    }

    void three_wide() {
        if (n_ > 4) { // an axis of 1 between: a batch, as torch.stack over layers leaves it
            guess_.axes[wide_[0]] = Axis::layer;
            guess_.axes[wide_[1]] = Axis::head;
            guess_.axes[wide_[2]] = Axis::query;
            guess_.why = "five axes of which one is a batch of 1: [layers, batch, heads, queries, keys]";
            return;
        }
        if (probe_.probabilities()) {
            return ask("[token, layer, head, context] or as [layer, head, query, key]",
                       "--axes token,layer,head,key or --axes layer,head,query,key");
        }
        guess_.axes[0] = Axis::token;
        guess_.axes[1] = Axis::layer;
        guess_.axes[2] = Axis::head;
        guess_.why = "[tokens, layers, heads, context] is what four axes are without a sign of something else";
    }

    // Names the axes that are left, in order: layers, then heads; and says so where there is only one.
    void name_rest(const std::vector<size_t>& rest) {
        if (rest.size() == 2 && !one_of_layers_) {
            guess_.axes[rest[0]] = Axis::layer;
            guess_.axes[rest[1]] = Axis::head;
            return;
        }
        if (rest.size() > 1) return too_many();
        if (rest.empty()) return;
        const size_t i = rest[0];
        // [batch, head, query, key]: an axis of 1 before it; [layer, query, key]: none
        const bool ones_before = std::count(shape_.begin(), shape_.begin() + int64_t(i), 1) > 0;
        const bool head = one_of_layers_ || (ones_before && n_ >= 4);
        guess_.axes[i] = head ? Axis::head : Axis::layer;
        if (!head)
            guess_.why += "; the axis of " + std::to_string(shape_[i]) +
                          " may be layers (means over heads) or the heads of one layer: read as layers";
    }

    std::vector<size_t> without(size_t axis) const {
        std::vector<size_t> rest = wide_;
        std::erase(rest, axis);
        return rest;
    }

    void ask(const std::string& readings, const std::string& options) {
        guess_.question = "the shape " + base::shape_text(shape_) + " can be read as " + readings +
                          ", and nothing in the numbers decides: pass " + options;
    }
    void too_many() {
        guess_.question = "the shape " + base::shape_text(shape_) +
                          " has too many axes for [layer, head, query, key]: save one prompt of the batch, or one "
                          "step, as an array of its own (x[:, 0] in NumPy), or name the axes with --axes";
    }

    const std::vector<int64_t>& shape_;
    const ArrayProbe& probe_;
    const bool one_of_layers_;
    const size_t n_;
    std::vector<size_t> wide_; // axes of more than 1 before the last
    AxesGuess guess_;
};

} // namespace

NamedPlace named_place(const std::string& name) {
    return {number_behind(name, {"step", "token", "tok", "iter", "gen"}),
            number_behind(name, {"layer", "block", "l", "h"})};
}

AxesGuess guess_axes(const std::vector<int64_t>& shape, const ArrayProbe& probe, bool one_of_layers) {
    if (shape.empty()) {
        AxesGuess guess;
        guess.question = "it has no axis";
        return guess;
    }
    Guesser guesser(shape, probe, one_of_layers);
    return guesser.guess();
}

} // namespace attnscope::formats
