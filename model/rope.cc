#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace chorale {
namespace {

constexpr int kRowsPerTask = 16;

std::vector<double> PlainFrequencies(double theta, int head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
  }
  return frequencies;
}

// The base of the angles in a sequence of `tokens`, more than the original context.
double DynamicTheta(double theta, const RopeScaling& scaling, int head_dim, int tokens) {
  if (head_dim <= 2) return theta;  // the one frequency is 1, whatever the base
  const double stretch =
      scaling.factor * tokens / scaling.original_positions - (scaling.factor - 1);
  return theta * std::pow(stretch, head_dim / (head_dim - 2.0));
}

// Wavelengths short against the original context stay, long ones are stretched by `factor`, those
// between are blended.
void ScaleLlama3(const RopeScaling& scaling, std::vector<double>& frequencies) {
  const double long_wave = scaling.original_positions / scaling.low_freq_factor;
  const double short_wave = scaling.original_positions / scaling.high_freq_factor;
  for (double& f : frequencies) {
    const double wave = 2 * std::numbers::pi / f;
    if (wave < short_wave) continue;
    const double keep = wave > long_wave
                            ? 0
                            : (scaling.original_positions / wave - scaling.low_freq_factor) /
                                  (scaling.high_freq_factor - scaling.low_freq_factor);
    f = (1 - keep) * f / scaling.factor + keep * f;
  }
}

// Dimensions that turn more than beta_fast times within the original context stay, those that turn
// less than beta_slow times are stretched, with a linear ramp over the dimensions between.
void ScaleYarn(const ModelConfig& config, std::vector<double>& frequencies) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto dimension_of = [&](double turns) {
    return config.head_dim * std::log(scaling.original_positions / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  const double low = std::max(std::floor(dimension_of(scaling.beta_fast)), 0.0);
  double high = std::min(std::ceil(dimension_of(scaling.beta_slow)), config.head_dim - 1.0);
  if (low == high) high += 0.001;  // the formula's own guard against a ramp of no width
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double stretch = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / scaling.factor * stretch + frequencies[i] * (1 - stretch);
  }
}

}  // namespace

Rope::Rope(const ModelConfig& config)
    : theta_(config.rope_theta),
      scaling_(config.rope_scaling),
      frequencies_(PlainFrequencies(config.rope_theta, config.head_dim)) {
  switch (scaling_.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kDynamic:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& f : frequencies_) f /= scaling_.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      ScaleLlama3(scaling_, frequencies_);
      break;
    case RopeScaling::Kind::kYarn:
      ScaleYarn(config, frequencies_);
      amplitude_ = scaling_.attention_factor != 0 ? scaling_.attention_factor
                                                  : 0.1 * std::log(scaling_.factor) + 1;
      break;
    case RopeScaling::Kind::kLongRope:
      long_frequencies_ = frequencies_;
      for (size_t i = 0; i < frequencies_.size(); ++i) {
        frequencies_[i] /= scaling_.short_divisors[i];
        long_frequencies_[i] /= scaling_.long_divisors[i];
      }
      amplitude_ = scaling_.attention_factor;
      break;
  }
}

std::vector<double> Rope::FrequenciesAt(Place place) const {
  if (place.long_context && !long_frequencies_.empty()) return long_frequencies_;
  if (scaling_.kind != RopeScaling::Kind::kDynamic ||
      place.position < scaling_.original_positions) {
    return frequencies_;
  }
  return PlainFrequencies(
      DynamicTheta(theta_, scaling_, static_cast<int>(2 * frequencies_.size()), place.position + 1),
      static_cast<int>(2 * frequencies_.size()));
}

void Rope::Fill(std::span<const Place> places, float* cos, float* sin,
                kernels::ThreadPool& pool) const {
  const int rows = static_cast<int>(places.size());
  const int64_t half = static_cast<int64_t>(frequencies_.size());
  pool.ParallelFor((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int task) {
    const int end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int row = task * kRowsPerTask; row < end; ++row) {
      const std::vector<double> frequencies = FrequenciesAt(places[row]);
      for (int64_t d = 0; d < half; ++d) {
        const double angle = places[row].position * frequencies[d];
        cos[row * half + d] = static_cast<float>(std::cos(angle) * amplitude_);
        sin[row * half + d] = static_cast<float>(std::sin(angle) * amplitude_);
      }
    }
  });
}

}  // namespace chorale
