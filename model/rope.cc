#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace chorale {
namespace {

constexpr int kRowsPerTask = 16;

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

Rope::Rope(const ModelConfig& config) : frequencies_(config.head_dim / 2) {
  const RopeScaling& scaling = config.rope_scaling;
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    frequencies_[i] = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / config.head_dim);
  }
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& f : frequencies_) f /= scaling.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      ScaleLlama3(scaling, frequencies_);
      break;
    case RopeScaling::Kind::kYarn:
      ScaleYarn(config, frequencies_);
      amplitude_ = scaling.attention_factor != 0 ? scaling.attention_factor
                                                 : 0.1 * std::log(scaling.factor) + 1;
      break;
  }
}

void Rope::Fill(std::span<const int> positions, float* cos, float* sin,
                kernels::ThreadPool& pool) const {
  const int rows = static_cast<int>(positions.size());
  const int64_t half = static_cast<int64_t>(frequencies_.size());
  pool.ParallelFor((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int task) {
    const int end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int row = task * kRowsPerTask; row < end; ++row) {
      for (int64_t d = 0; d < half; ++d) {
        const double angle = positions[row] * frequencies_[d];
        cos[row * half + d] = static_cast<float>(std::cos(angle) * amplitude_);
        sin[row * half + d] = static_cast<float>(std::sin(angle) * amplitude_);
      }
    }
  });
}

}  // namespace chorale
