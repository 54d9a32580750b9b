"""Image and sync metrics: against scikit-image, and on cases that can be worked out by hand."""

import jax
import numpy as np
import skimage.metrics

from tfg_jax.metrics import image, sync

RNG = np.random.default_rng(0)
PSNR, PSNR_OFFICIAL, SSIM = map(jax.jit, (image.psnr, image.psnr_official, image.ssim))
REAL = RNG.integers(0, 256, (3, 24, 20, 3), dtype=np.uint8)
NOISY = np.clip(REAL + RNG.integers(-30, 31, REAL.shape), 0, 255).astype(np.uint8)


def test_psnr_is_that_of_scikit_image():
  expected = [
    skimage.metrics.peak_signal_noise_ratio(*pair) for pair in zip(REAL, NOISY, strict=True)
  ]
  np.testing.assert_allclose(PSNR(NOISY, REAL), expected, rtol=1e-5)


def test_official_psnr_wraps_its_squares_and_flatters():
  squares = np.square(NOISY - REAL)  # uint8 arithmetic, as in the official script
  expected = 20 * np.log10(255 / np.sqrt(squares.mean((1, 2, 3))))
  ours = PSNR_OFFICIAL(NOISY, REAL)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)
  assert np.all(ours > PSNR(NOISY, REAL))


def test_identical_images():
  np.testing.assert_array_equal(PSNR(REAL, REAL), image.IDENTICAL)
  np.testing.assert_array_equal(PSNR_OFFICIAL(REAL, REAL), image.IDENTICAL)
  np.testing.assert_allclose(SSIM(REAL, REAL), 1, atol=1e-6)


def test_ssim_is_that_of_scikit_image():
  settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
  expected = [
    skimage.metrics.structural_similarity(*pair, channel_axis=-1, data_range=255, **settings)
    for pair in zip(NOISY, REAL, strict=True)
  ]
  np.testing.assert_allclose(SSIM(NOISY, REAL), expected, atol=1e-5)


def test_number_of_windows_follows_the_shorter_stream():
  assert sync.num_windows(30, 640 * 30) == 25
  assert sync.num_windows(30, 640 * 20 + 639) == 15
  assert sync.num_windows(4, 640 * 30) == -1


def test_offset_and_scores_of_shifted_embeddings():
  features = RNG.standard_normal((50, 16)).astype(np.float32)
  lips, speech = features[3:43], features[:40]  # lips[i] belongs to speech[i + 3]
  scores = jax.jit(sync.sync_scores)(lips, speech, 40)
  assert int(scores.offset) == -3
  distances = np.asarray(sync.sync_distances(lips, speech))
  mean = distances.mean(0)
  np.testing.assert_allclose(scores.mean_distances, mean, rtol=1e-5)
  np.testing.assert_allclose(scores.distance, mean[18], rtol=1e-5)
  np.testing.assert_allclose(scores.confidence, np.median(mean) - mean[18], rtol=1e-4)
  np.testing.assert_allclose(distances[:37, 18], 4e-6, rtol=1e-4)  # 1e-6 * sqrt(16)
  np.testing.assert_allclose(distances[38, 18], np.linalg.norm(lips[38]), rtol=1e-5)


def test_windows_of_a_clip():
  frames = RNG.integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)
  wav = RNG.integers(-999, 999, 640 * 6, dtype=np.int16)
  starts = np.array([0, 1])
  lips = jax.jit(sync.lip_windows)(frames, starts)
  assert lips.shape == (2, 5, 224, 224, 3)
  np.testing.assert_array_equal(lips[1, 0, 0, 0], frames[1, 0, 0, ::-1])  # BGR
  speech = np.asarray(jax.jit(sync.speech_windows)(wav, len(wav), starts))
  assert speech.shape == (2, 13, 20, 1)
  np.testing.assert_array_equal(speech[0, :, 4:], speech[1, :, :16])  # 40 ms later


def test_confidence_is_smoothed_by_a_median_with_zeros_beyond_the_ends():
  smoothed = sync.smoothed_confidence(np.array([1.0, 9, 2, 3, 4]), window=3)
  np.testing.assert_array_equal(smoothed, [1, 2, 3, 3, 3])
