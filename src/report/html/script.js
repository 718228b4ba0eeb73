
'use strict';
// Zoom, numbers under the pointer, sliders, light and dark. Nothing here asks for anything outside.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const NONE = 65535, STEPS = 65534, MOST = 64;

  // Light and dark: as the system has it, until the button is used.
  const root = document.documentElement, theme = document.getElementById('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const dark = () => (root.dataset.theme || (system.matches ? 'dark' : 'light')) === 'dark';
  const show = () => theme.setAttribute('aria-pressed', String(dark()));
  theme.addEventListener('click', () => { root.dataset.theme = dark() ? 'light' : 'dark'; show(); });
  system.addEventListener('change', show);
  show();

  // The codes of an array, decoded when they are first asked for.
  const codes = index => {
    const array = data.arrays[index];
    if (!array.codes) {
      const text = atob(array.u16), bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
      array.codes = new DataView(bytes.buffer);
      delete array.u16;
    }
    return array;
  };
  const number = (index, x, y) => {
    const array = codes(index);
    const code = array.codes.getUint16(2 * (y * array.width + x), true);
    return code === NONE ? NaN : array.low + code / STEPS * (array.high - array.low);
  };
  const short = v => {
    if (!Number.isFinite(v)) return '–';
    const size = Math.abs(v);
    return (size !== 0 && (size < 1e-3 || size >= 1e6) ? v.toExponential(3) : String(+v.toPrecision(4)))
      .replace('-', '−');
  };
  const length = metres => {
    const [unit, factor] = [['m', 1], ['mm', 1e3], ['µm', 1e6], ['nm', 1e9], ['pm', 1e12]]
      .find(([, f]) => metres * f >= 0.9999) || ['pm', 1e12];
    return `${+(metres * factor).toPrecision(3)} ${unit}`;
  };
  // The largest of 1, 2, 5 times a power of ten that is not above `most`.
  const round = most => {
    const power = 10 ** Math.floor(Math.log10(most) + 1e-9);
    return power * ([5, 2, 1].find(m => m * power <= most * (1 + 1e-9)) || 1);
  };

  class Viewer {
    constructor(figure) {
      this.about = data.figures[Number(figure.dataset.figure)];
      this.stage = figure.querySelector('.stage');
      this.pans = [...figure.querySelectorAll('.pan')];
      this.readout = figure.querySelector('.readout');
      this.cross = figure.querySelector('.cross');
      this.scale = figure.querySelector('.scale');
      const array = data.arrays[this.about.layers[0].array];
      this.width = array.width;
      this.height = array.height;
      this.zoom = 1;
      this.x = 0;
      this.y = 0;
      this.at = [this.width >> 1, this.height >> 1];
      this.held = new Map();
      this.tools(figure);
      this.pointer();
      this.keys();
      this.slide(figure);
      new ResizeObserver(() => this.place()).observe(this.stage);
      this.place();
    }

    tools(figure) {
      const middle = () => [this.stage.clientWidth / 2, this.stage.clientHeight / 2];
      const act = {
        in: () => this.to(this.zoom * 1.6, ...middle()),
        out: () => this.to(this.zoom / 1.6, ...middle()),
        all: () => this.to(1, 0, 0),
      };
      for (const button of figure.querySelectorAll('[data-do]')) {
        button.addEventListener('click', act[button.dataset.do]);
      }
    }

    // The number `zoom` is that of the whole picture in the stage; (x, y) on the stage stays where it is.
    to(zoom, x, y) {
      const next = Math.min(MOST, Math.max(1, zoom));
      this.x = x - (x - this.x) * next / this.zoom;
      this.y = y - (y - this.y) * next / this.zoom;
      this.zoom = next;
      this.place();
    }

    place() {
      const w = this.stage.clientWidth, h = this.stage.clientHeight;
      this.x = Math.min(0, Math.max(w - w * this.zoom, this.x));
      this.y = Math.min(0, Math.max(h - h * this.zoom, this.y));
      for (const pan of this.pans) {
        pan.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
      }
      this.stage.classList.toggle('near', this.zoom > 1);
      this.ruler(w);
      this.mark();
    }

    // Pixels of the stage for each of the picture.
    unit() { return this.stage.clientWidth * this.zoom / this.width; }

    ruler(w) {
      const { pixel, bin } = this.about, most = 0.3 * w / this.unit() * bin;
      if (!(most > 0) || !Number.isFinite(most)) return;
      const metres = pixel ? pixel[1] : 0;
      const long = round(pixel ? most * metres : most);
      if (!pixel && long < 1) { this.scale.hidden = true; return; }
      const across = (pixel ? long / metres : long) / bin * this.unit();
      this.scale.hidden = false;
      this.scale.firstChild.textContent = pixel ? length(long) : `${long} px`;
      this.scale.lastChild.style.width = `${across}px`;
    }

    mark() {
      this.cross.style.left = `${this.x + (this.at[0] + 0.5) * this.unit()}px`;
      this.cross.style.top = `${this.y + (this.at[1] + 0.5) * this.unit()}px`;
    }

    say([x, y]) {
      if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
      const { bin, origin, pixel, layers } = this.about;
      const column = origin[1] + x * bin, row = origin[0] + y * bin;
      let text = `x ${short(column)}, y ${short(row)} px`;
      if (pixel) text += ` (${short(column * pixel[1] * 1e6)}, ${short(row * pixel[0] * 1e6)} µm)`;
      for (const layer of layers) {
        const value = number(layer.array, x, y);
        text += ` · ${layer.name} ${short(layer.log ? 10 ** value : value)}${layer.unit ? ' ' + layer.unit : ''}`;
      }
      this.readout.textContent = text;
    }

    pixel(event) {
      const box = this.stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }

    pointer() {
      const stage = this.stage;
      const index = (x, y) => [Math.floor((x - this.x) / this.unit()), Math.floor((y - this.y) / this.unit())];
      stage.addEventListener('wheel', event => {
        // The page scrolls on unless the picture is meant.
        if (!event.ctrlKey && document.activeElement !== stage) return;
        event.preventDefault();
        this.to(this.zoom * Math.exp(-event.deltaY / 300), ...this.pixel(event));
      }, { passive: false });
      stage.addEventListener('pointerdown', event => {
        this.held.set(event.pointerId, this.pixel(event));
        if (this.zoom > 1 || this.held.size > 1) stage.setPointerCapture(event.pointerId);
        stage.classList.add('held');
        this.cross.hidden = true;
      });
      stage.addEventListener('pointermove', event => {
        const now = this.pixel(event), was = this.held.get(event.pointerId);
        if (was && this.held.size === 2) this.pinch(event.pointerId, now);
        else if (was && this.zoom > 1) {
          this.x += now[0] - was[0];
          this.y += now[1] - was[1];
          this.place();
        }
        if (was) this.held.set(event.pointerId, now);
        this.say(index(...now));
      });
      const gone = event => { this.held.delete(event.pointerId); stage.classList.remove('held'); };
      ['pointerup', 'pointercancel', 'pointerleave'].forEach(name => stage.addEventListener(name, gone));
    }

    pinch(id, now) {
      const other = [...this.held].find(([key]) => key !== id)[1], was = this.held.get(id);
      const far = p => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      this.to(this.zoom * far(now) / far(was), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }

    keys() {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      this.stage.addEventListener('keydown', event => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const move = moves[event.key], [x, y] = this.at;
        const point = () => [this.x + (x + 0.5) * this.unit(), this.y + (y + 0.5) * this.unit()];
        if (move) {
          const step = event.shiftKey ? 10 : 1;
          this.at = [Math.min(this.width - 1, Math.max(0, x + step * move[0])),
            Math.min(this.height - 1, Math.max(0, y + step * move[1]))];
          this.follow();
        } else if (event.key === '+' || event.key === '=') this.to(this.zoom * 1.6, ...point());
        else if (event.key === '-') this.to(this.zoom / 1.6, ...point());
        else if (event.key === '0') this.to(1, 0, 0);
        else return;
        event.preventDefault();
        this.cross.hidden = false;
        this.say(this.at);
      });
      this.stage.addEventListener('blur', () => { this.cross.hidden = true; });
    }

    // Brings the cross into view.
    follow() {
      const u = this.unit(), w = this.stage.clientWidth, h = this.stage.clientHeight;
      const keep = (at, from, size) => {
        const place = from + (at + 0.5) * u;
        return place < 0.08 * size ? from + 0.08 * size - place : place > 0.92 * size ? from + 0.92 * size - place : from;
      };
      this.x = keep(this.at[0], this.x, w);
      this.y = keep(this.at[1], this.y, h);
      this.place();
    }

    slide(figure) {
      const slider = figure.querySelector('input[type=range]');
      if (!slider) return;
      const over = figure.querySelector('.over'), seam = figure.querySelector('.seam');
      const set = () => {
        over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
        seam.style.left = `${slider.value}%`;
      };
      slider.addEventListener('input', set);
      set();
    }
  }
  document.querySelectorAll('.viewer').forEach(figure => new Viewer(figure));
})();
