#include "formats/array_plan.h"

#include "formats/array_probe.h"
#include "formats/arrays_reader.h"
#include "formats/guess_axes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include <fnmatch.h>

namespace attnscope::formats {

namespace {

struct Candidate {
    StoredArray array;
    ArrayProbe probe;
    AxesGuess guess;
    NamedPlace place;
    std::string stem; // the name without its numbers

    const std::vector<int64_t>& shape() const { return array.layout.shape; }
    bool has(Axis axis) const { return std::find(guess.axes.begin(), guess.axes.end(), axis) != guess.axes.end(); }
    int64_t extent(Axis axis) const {
        for (size_t i = 0; i < guess.axes.size(); ++i) {
            if (guess.axes[i] == axis) return shape()[i];
        }
        return 1;
    }
};

std::string without_numbers(const std::string& name) {
    std::string stem;
    for (const char c : name) {
        if (c < '0' || c > '9') stem += c;
    }
    return stem;
}

// "blocks.*.attn" for blocks.12.attn
std::string with_stars(const std::string& name) {
    std::string pattern;
    for (const char c : name) {
        if (c < '0' || c > '9')
            pattern += c;
        else if (pattern.empty() || pattern.back() != '*')
            pattern += '*';
    }
    return pattern;
}

bool asked_for(const std::string& name, const std::string& wanted) {
    return wanted.empty() || name == wanted || fnmatch(wanted.c_str(), name.c_str(), 0) == 0;
}

Error nothing_there(const DumpInfo& info) {
    return {ErrorKind::unsupported,
            info.path + " holds no array of attention" + (info.notes.empty() ? "" : ": " + info.notes.front())};
}

// What is not attention beside what is: hidden states, logits, positions.
void leave_out_others(DumpInfo& info, std::vector<Candidate>& candidates) {
    const bool any_wide =
        std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.shape().size() > 1; });
    if (any_wide) {
        std::erase_if(candidates, [&](const Candidate& c) {
            if (c.shape().size() > 1) return false;
            info.notes.push_back(c.array.name + " has one axis: left out");
            info.left_out.push_back(c.array.name);
            return true;
        });
    }
    const bool any_whole =
        std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.probe.probabilities(); });
    const bool any_weights =
        std::any_of(candidates.begin(), candidates.end(), [](const Candidate& c) { return c.probe.attention(); });
    if (!any_whole && !any_weights) return;
    std::set<std::string> kept; // what is spoiled in one array of a kind stays beside its like
    for (const Candidate& c : candidates) {
        if (any_whole ? c.probe.probabilities() : c.probe.attention()) kept.insert(c.stem);
    }
    std::vector<Candidate> left;
    for (Candidate& c : candidates) {
        // rows that hold nothing at all may be a layer without attention
        if (kept.count(c.stem) || !c.probe.looked || c.probe.rows == 0) {
            left.push_back(std::move(c));
            continue;
        }
        info.notes.push_back(fmt::format(
            "{} {} holds numbers from {:.3g} to {:.3g} whose rows are no weights: another thing than "
            "the attention beside it, left out (--array {} looks at it)",
            c.array.name, base::shape_text(c.shape()), double(c.probe.min), double(c.probe.max), c.array.name));
        info.left_out.push_back(c.array.name);
    }
    candidates = std::move(left);
}

// Two sets of attention in one file (an encoder's and a decoder's) are not one dump.
std::string several_sets(const std::vector<Candidate>& candidates) {
    std::map<std::string, std::vector<const Candidate*>> sets;
    for (const Candidate& c : candidates) sets[c.stem].push_back(&c);
    if (sets.size() < 2) return {};
    std::vector<int64_t> widths;
    for (const Candidate& c : candidates) widths.push_back(c.shape().back());
    std::sort(widths.begin(), widths.end());
    const bool one_a_width = std::adjacent_find(widths.begin(), widths.end()) == widths.end();
    if (one_a_width) return {}; // tokens under names of their own
    // a prompt and the steps after it, under two names
    std::set<std::pair<size_t, int64_t>> seen;
    bool clash = false;
    for (const auto& [stem, members] : sets) {
        std::set<std::pair<size_t, int64_t>> own;
        for (const Candidate* c : members) own.insert({c->shape().size(), c->shape().back()});
        for (const auto& key : own) clash = !seen.insert(key).second || clash;
    }
    if (!clash) return {};
    std::string names;
    for (const auto& [stem, members] : sets) {
        names +=
            (names.empty() ? "" : " or ") + std::string("--array ") +
            (members.size() > 1 ? "'" + with_stars(members.front()->array.name) + "'" : members.front()->array.name);
    }
    return "holds " + std::to_string(sets.size()) + " sets of attention that are not one capture: pass " + names;
}

// `why`: what `stated` rests on.
void guess_all(std::vector<Candidate>& candidates, const std::vector<Axis>& stated, const std::string& why) {
    for (Candidate& c : candidates) {
        if (!stated.empty()) {
            c.guess.axes = stated;
            c.guess.why = why.empty() ? "as --axes says" : why;
            c.guess.question = axes_problem(stated, c.shape());
            continue;
        }
        const bool named = c.place.layer >= 0 && c.shape().size() <= 4;
        c.guess = guess_axes(c.shape(), c.probe, named);
        if (named && !c.guess.question.empty()) {
            AxesGuess other = guess_axes(c.shape(), c.probe, false);
            if (other.question.empty()) c.guess = std::move(other);
        }
    }
    if (!stated.empty() || candidates.size() < 2) return;
    // Arrays of one kind have the same axes: what one leaves open another decides.
    for (Candidate& c : candidates) {
        if (c.guess.question.empty() && c.shape().size() != 3) continue;
        std::map<std::vector<Axis>, int> votes;
        for (const Candidate& other : candidates) {
            if (other.stem == c.stem && other.guess.question.empty() &&
                axes_problem(other.guess.axes, c.shape()).empty())
                ++votes[other.guess.axes];
        }
        const auto most = std::max_element(votes.begin(), votes.end(),
                                           [](const auto& a, const auto& b) { return a.second < b.second; });
        if (most == votes.end() || most->first == c.guess.axes) continue;
        c.guess.axes = most->first;
        c.guess.question.clear();
        c.guess.why = "as in the arrays of the same kind beside it";
    }
}

// Every array is one layer where none has an axis of layers and neighbours share their width.
bool are_layers(std::vector<Candidate>& candidates, bool stated) {
    if (candidates.size() < 2 || candidates.front().shape().size() < 2) return false;
    int64_t pairs = 0, same = 0;
    for (size_t i = 0; i < candidates.size(); ++i) {
        Candidate& c = candidates[i];
        const bool both = c.has(Axis::layer) && c.has(Axis::head);
        if (both) return false;
        if (i > 0) ++pairs, same += c.shape().back() == candidates[i - 1].shape().back();
    }
    if (same * 2 < pairs) return false;
    for (Candidate& c : candidates) {
        if (!stated) std::replace(c.guess.axes.begin(), c.guess.axes.end(), Axis::layer, Axis::head);
        if (!stated && c.guess.why.find(" may be layers") != std::string::npos)
            c.guess.why.resize(c.guess.why.find("; the axis of"));
    }
    return true;
}

std::string range(int64_t low, int64_t high) {
    return low == high ? std::to_string(low) : fmt::format("{} to {}", low, high);
}

void state_axes(DumpInfo& info, const std::vector<Candidate>& candidates,
                const std::vector<std::vector<size_t>>& groups, bool layers) {
    const Candidate& first = candidates[groups.front().front()];
    if (candidates.size() == 1) {
        info.axes = axes_text(first.guess.axes, first.shape());
    } else {
        int64_t low = INT64_MAX, high = 0;
        for (const Candidate& c : candidates) {
            low = std::min(low, c.shape().back());
            high = std::max(high, c.shape().back());
        }
        if (groups.size() > 1 || !layers)
            info.axes = fmt::format("{} {} (in order), ", layers ? "step" : "token", groups.size());
        if (layers) info.axes += fmt::format("layer {} (an array each), ", groups.front().size());
        for (size_t i = 0; i < first.guess.axes.size(); ++i) {
            const Axis axis = first.guess.axes[i];
            if (axis == Axis::one) continue;
            info.axes += fmt::format("{} {}{}", axis_name(axis),
                                     axis == Axis::key ? range(low, high) : std::to_string(first.shape()[i]),
                                     axis == Axis::key ? "" : ", ");
        }
    }
    info.axes_why = first.guess.why;
}

} // namespace

OpenedDump plan_arrays(DumpInfo info, std::vector<StoredArray> arrays, const CaptureOptions& options) {
    info.model.learned_sinks = options.learned_sinks;
    std::vector<Axis> stated;
    if (!options.axes.empty()) {
        auto parsed = parse_axes(options.axes);
        if (!parsed) return parsed.error();
        stated = std::move(*parsed);
    }
    std::vector<Candidate> candidates;
    std::string names;
    for (StoredArray& array : arrays) {
        if (names.size() < 400) names += (names.empty() ? "" : ", ") + array.name;
        if (!asked_for(array.name, options.array)) continue;
        if (!base::shape_elements(array.layout.shape, INT64_MAX / 8) || array.layout.shape.empty()) {
            const std::string what =
                array.name + " has the shape " + base::shape_text(array.layout.shape) +
                (!array.layout.shape.empty() && array.layout.shape[0] == 0 ? ": 0 tokens"
                                                                           : ", which is empty or too large");
            info.notes.push_back(what + (arrays.size() > 1 ? ": left out" : ""));
            info.left_out.push_back(array.name);
            continue;
        }
        Candidate c;
        c.place = named_place(array.name);
        c.stem = without_numbers(array.name);
        c.array = std::move(array);
        candidates.push_back(std::move(c));
    }
    if (candidates.empty() && !options.array.empty() && !names.empty() && info.notes.empty())
        return Error{ErrorKind::not_found, info.path + " has no array " + options.array + "; it has " + names};
    std::map<std::pair<std::string, std::vector<int64_t>>, std::pair<int, ArrayProbe>> looked;
    for (Candidate& c : candidates) {
        // arrays of one kind and shape are alike: two looks are enough
        auto& [times, probe] = looked[{c.stem, c.shape()}];
        if (times < 2) probe = probe_array(c.array);
        ++times;
        c.probe = probe;
    }
    if (options.array.empty()) leave_out_others(info, candidates);
    if (candidates.empty()) return nothing_there(info);
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
        if (a.place.step >= 0 && b.place.step >= 0 && a.place.step != b.place.step) return a.place.step < b.place.step;
        return natural_less(a.array.name, b.array.name);
    });
    if (const std::string several = several_sets(candidates); !several.empty())
        return Error{ErrorKind::unsupported, info.path + " " + several};
    guess_all(candidates, stated, options.axes_why);
    for (const Candidate& c : candidates) {
        if (!c.guess.question.empty()) return Error{ErrorKind::unsupported, c.array.name + ": " + c.guess.question};
    }
    const bool layers = are_layers(candidates, !stated.empty());
    std::vector<std::vector<size_t>> groups;
    for (size_t i = 0; i < candidates.size(); ++i) {
        const Candidate& c = candidates[i];
        const Candidate* before = i > 0 ? &candidates[i - 1] : nullptr;
        const bool joins = layers && before && before->shape() == c.shape() && before->place.step == c.place.step &&
                           (c.place.layer < 0 || c.place.layer > before->place.layer);
        if (!joins) groups.emplace_back();
        groups.back().push_back(i);
    }
    state_axes(info, candidates, groups, layers);
    std::vector<ArrayGroup> read;
    for (const std::vector<size_t>& group : groups) {
        if (layers && group.size() != groups.front().size())
            info.notes.push_back(fmt::format("{} is one of {} layers where {} has {}",
                                             candidates[group.front()].array.name, group.size(),
                                             candidates[groups.front().front()].array.name, groups.front().size()));
        ArrayGroup members;
        for (const size_t i : group) {
            Candidate& c = candidates[i];
            info.storage =
                element_name(c.array.layout.type) + std::string(c.array.layout.big_endian ? ", big-endian" : "");
            auto tokens = ArrayTokens::make(std::move(c.array), c.guess.axes);
            if (!tokens) return tokens.error();
            members.push_back(std::move(*tokens));
        }
        read.push_back(std::move(members));
    }
    return read_arrays(std::move(info), std::move(read));
}

} // namespace attnscope::formats
