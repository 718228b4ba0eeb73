
'use strict';
// Hears of a run while it goes on. What is shown is replaced, never added to.
(() => {
  const about = JSON.parse(document.getElementById('data').textContent);
  const token = new URLSearchParams(location.search).get('token') || '';
  const at = id => document.getElementById(id);
  const MOST = 400;

  const root = document.documentElement, theme = at('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const dark = () => (root.dataset.theme || (system.matches ? 'dark' : 'light')) === 'dark';
  const show = () => theme.setAttribute('aria-pressed', String(dark()));
  theme.addEventListener('click', () => { root.dataset.theme = dark() ? 'light' : 'dark'; show(); });
  system.addEventListener('change', show);
  show();

  const short = v => {
    if (v === null || !Number.isFinite(v)) return '–';
    const size = Math.abs(v);
    return (size !== 0 && (size < 1e-3 || size >= 1e6) ? v.toExponential(2) : String(+v.toPrecision(4)))
      .replace('-', '−');
  };
  const put = (id, text) => { const node = at(id); if (node.textContent !== text) node.textContent = text; };

  // The curve: a fixed number of elements, made once.
  const AREA = { left: 64, top: 14, right: 946, bottom: 264 }, TICKS = 7;
  const fit = () => {
    const wide = Math.max(300, at('curve').parentElement.clientWidth - 32);
    at('curve').setAttribute('viewBox', `0 0 ${wide} 304`);
    AREA.right = wide - 12;
    frame.setAttribute('d', `M${AREA.left} ${AREA.top}V${AREA.bottom}H${AREA.right}`);
    name.setAttribute('x', AREA.right);
  };
  const make = (name, attributes) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    at('curve').append(node);
    return node;
  };
  const axis = (anchor) => Array.from({ length: TICKS }, () => ({
    line: make('path', { class: 'grid', d: '' }),
    text: make('text', { 'text-anchor': anchor }),
  }));
  const xs = axis('middle'), ys = axis('end');
  const frame = make('path', { class: 'axis', d: '' });
  const name = make('text', { y: AREA.bottom + 37, 'text-anchor': 'end' });
  name.textContent = 'epoch';
  const lines = [make('path', { class: 'line line0', d: '' }), make('path', { class: 'line line1', d: '' })];

  let points = [];
  const ticks = (low, high, log, most) => {
    if (log && Math.log10(high / low) >= 1) {
      const all = [];
      const span = Math.log10(high / low);
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
        for (const m of span < 2 ? [1, 2, 5] : [1]) all.push(m * 10 ** e);
      }
      return all.filter(v => v >= low * 0.999 && v <= high * 1.001).slice(0, TICKS);
    }
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(m => m * power >= rough * 0.999);
    const all = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) all.push(v);
    return all.slice(0, TICKS);
  };

  const draw = () => {
    const good = points.filter(p => Number.isFinite(p[1]));
    if (!good.length) return;
    const values = good.flatMap(p => [p[1], p[2]]).filter(v => v !== null && Number.isFinite(v));
    let [x0, x1] = [good[0][0], good[good.length - 1][0]];
    if (x0 === x1) { x0 -= 1; x1 += 1; }
    let [y0, y1] = [Math.min(...values), Math.max(...values)];
    if (y0 === y1) { const d = 0.5 * Math.abs(y0) || 1; y0 -= d; y1 += d; }
    const log = y0 > 0, f = v => (log ? Math.log(v) : v);
    const px = v => AREA.left + 8 + (v - x0) / (x1 - x0) * (AREA.right - AREA.left - 16);
    const py = v => AREA.bottom - 8 - (f(v) - f(y0)) / (f(y1) - f(y0)) * (AREA.bottom - AREA.top - 16);
    const mark = (pool, all, place) => pool.forEach((tick, i) => {
      const known = i < all.length;
      tick.line.setAttribute('d', known ? place(all[i], tick.text) : '');
      tick.text.textContent = known ? short(all[i]) : '';
    });
    mark(xs, ticks(x0, x1, false, AREA.right > 600 ? 6 : 3), (v, text) => {
      text.setAttribute('x', px(v)); text.setAttribute('y', AREA.bottom + 18);
      return `M${px(v).toFixed(1)} ${AREA.top}V${AREA.bottom}`;
    });
    mark(ys, ticks(y0, y1, log, 5), (v, text) => {
      text.setAttribute('x', AREA.left - 6); text.setAttribute('y', py(v) + 4);
      return `M${AREA.left} ${py(v).toFixed(1)}H${AREA.right}`;
    });
    [1, 2].forEach(column => {
      const line = good.filter(p => p[column] !== null && Number.isFinite(p[column]));
      const path = line.map((p, i) => `${i ? 'L' : 'M'}${px(p[0]).toFixed(1)} ${py(p[column]).toFixed(1)}`).join('');
      lines[column - 1].setAttribute('d', line.length === 1 ? `${path}h0` : path);
    });
    at('key-validation').hidden = !good.some(p => p[2] !== null);
    const last = good[good.length - 1];
    at('curve').setAttribute('aria-label', `Loss over the epochs: ${short(last[1])} after epoch ${last[0]}`);
  };
  // More points than this say no more. Those that stay are even over the epochs, whatever their age, and the
  // last one is there.
  let every = 1;
  const kept = (p, last) => (p[0] - 1) % every === 0 || p[0] === last;
  const thin = () => {
    const last = points.length ? points[points.length - 1][0] : 0;
    while (points.length > MOST) { every *= 2; points = points.filter(p => kept(p, last)); }
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };

  const refit = () => { fit(); soon(); };
  new ResizeObserver(refit).observe(at('curve').parentElement);
  fit();

  let began = null, first = 0, over = false;
  const progress = done => { at('progress').value = Math.min(1, done / about.epochs); };
  const epoch = row => {
    put('epoch', String(row.epoch));
    put('where', `Epoch ${row.epoch} of ${about.epochs}`);
    put('loss', short(row.loss));
    put('validation', short(row.validation));
    put('speed', short(Math.round(row.speed)));
    progress(row.epoch);
    if (began === null) { began = performance.now(); first = row.epoch; return; }
    const each = (performance.now() - began) / 1000 / Math.max(1, row.epoch - first);
    const left = Math.round(each * (about.epochs - row.epoch));
    put('left', left < 60 ? `${left} s` : left < 3600 ? `${Math.round(left / 60)} min` : `${(left / 3600).toFixed(1)} h`);
  };
  const say = (text, lamp) => { put('said', text); at('lamp').className = `lamp ${lamp}`; };
  let shown = 0;
  const picture = number => {
    if (!number || number === shown) return;
    shown = number;
    for (const name of ['complex', 'amplitude', 'phase']) {
      const image = at(name);
      image.src = `/${name}.png?token=${token}&number=${number}`;
      image.hidden = false;
      image.previousElementSibling.hidden = true;
    }
  };
  const stopping = () => { at('stop').disabled = true; put('stop', 'Stopping after this epoch'); };
  const ended = () => {
    over = true;
    at('stop').disabled = at('checkpoint').disabled = true;
    say('The run has ended; report.html in its folder has more', '');
    put('left', '–');
    source.close();
  };

  const source = new EventSource(`/events?token=${token}`);
  const on = (name, act) => source.addEventListener(name, event => act(JSON.parse(event.data)));
  on('hello', all => {
    say('Running', 'on');
    points = all.points;
    every = all.every;
    thin();
    if (all.last) epoch(all.last);
    put('note', all.note);
    picture(all.picture);
    if (all.stopping) stopping();
    soon();
    if (all.ended) ended();
  });
  on('epoch', row => {
    points = points.filter(p => p[0] < row.epoch && kept(p));
    points.push([row.epoch, row.loss, row.validation]);
    thin();
    epoch(row);
    soon();
  });
  on('step', part => {
    put('where', `Epoch ${part.epoch} of ${about.epochs}, ${Math.round(100 * part.done)} %`);
    put('loss', short(part.loss));
    progress(part.epoch - 1 + part.done);
  });
  on('picture', now => picture(now.picture));
  on('note', now => put('note', now.note));
  on('stopping', stopping);
  on('end', ended);
  source.addEventListener('error', () => { if (!over) say('Not connected: the run has ended, or the page waits for it', 'off'); });

  const ask = (id, path, text) => at(id).addEventListener('click', async () => {
    try {
      const answer = await fetch(path, { method: 'POST', headers: { 'X-Token': token } });
      put('note', answer.ok ? text : `Refused: ${await answer.text()}`);
    } catch { put('note', 'The run did not answer.'); }
  });
  ask('checkpoint', '/checkpoint', 'A checkpoint is written with the next step.');
  ask('stop', '/stop', 'The run ends after this epoch, with all that it writes at its end.');
})();
